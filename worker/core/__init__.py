"""The pure core: deciders that take what is known, `now` included, and return a decision. No I/O, no clock, no driver."""
