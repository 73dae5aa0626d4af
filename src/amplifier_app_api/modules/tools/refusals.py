"""What tools say when they will not or cannot do what they were asked."""


class Refused(Exception):
    """Nothing was done, or not all of it; the text is a sentence for the model."""
