"""claim → pace → send → classify → record, over two ports: a Store and a Sender. anyio only: it runs on trio's virtual clock too."""
