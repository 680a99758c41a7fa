"""How a command ends that could not, or was not to, go on."""

import signal
import threading

import pytest

from kgt.errors import UserError, as_command


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line_and_the_code_that_shells_know(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture
) -> None:
    left = []

    @as_command("interrupted: nothing is lost")
    def main() -> int:
        try:
            signal.raise_signal(number)
        finally:
            left.append("in order")
        return 0

    before = signal.getsignal(signal.SIGTERM)
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert main() == code
    finally:
        signal.signal(signal.SIGINT, heard)
    assert capsys.readouterr().err == "interrupted: nothing is lost\n"
    assert left == ["in order"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture) -> None:
    @as_command()
    def main(name: str) -> int:
        raise UserError(f"{name}: no such thing")

    assert main("x") == 2
    assert capsys.readouterr().err == "error: x: no such thing\n"


def test_a_command_may_be_called_in_any_thread() -> None:
    codes: list[int] = []

    @as_command()
    def main() -> int:
        return 7

    thread = threading.Thread(target=lambda: codes.append(main()))
    thread.start()
    thread.join()
    assert codes == [7]
