"""claim → pace → send → classify → record, over two ports. anyio only, so that it also runs on trio's virtual clock."""
