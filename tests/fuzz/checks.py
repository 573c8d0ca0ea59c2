"""What every message of a parser has to be."""


def check_message(text: str) -> None:
    """It goes to logs and terminals: nothing in it may act there, and it may not fill them."""
    assert text.isprintable(), repr(text)
    assert len(text) < 1000, len(text)
