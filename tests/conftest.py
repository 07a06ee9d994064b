"""What every test may count on."""

import signal


def pytest_configure() -> None:
    """Whoever started the tests in the background may have had interrupts ignored, which every child would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
