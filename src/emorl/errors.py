"""The one error that is the user's to mend."""


class InputError(Exception):
    """Something given to emorl is wrong: a file, a shape, a name, an option.

    The message is one line that says what is wrong and how to mend it. The command line prints it and
    exits with code 2; library callers may catch it. Anything else that is raised is a bug of ours.
    """
