"""The one error that is the user's to mend."""


class InputError(Exception):
    """Something given to emorl is wrong: a file, a shape, a name, an option.

    The message is one line that says what is wrong and how to mend it. The command line prints it and
    exits with code 2; library callers may catch it. Anything else that is raised is a bug of ours.
    """


def first_line(error: BaseException) -> str:
    """What a library's error says, in a line of at most 160 characters; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
