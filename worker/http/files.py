"""Our own want of file descriptors, told apart from what receivers and name servers do."""

import errno
import os


def says_no_files(error: BaseException) -> bool:
    """Whether an error says that this process, or the machine, may open no more files."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def no_files_left() -> bool:
    """Find out, by opening one: for errors that do not say, as a look-up's."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return says_no_files(error)
    return False
