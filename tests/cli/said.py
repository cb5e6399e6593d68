"""What a command says that fails."""

from service.cli.main import main


def error_of(capsys, *arguments: object) -> str:
    """The one sentence of a command that fails with exit code 2 and prints nothing else."""
    try:
        code = main(list(map(str, arguments)))
    except SystemExit as stop:  # argparse
        code = stop.code
    output = capsys.readouterr()
    assert (code, output.out) == (2, "")
    assert "Traceback" not in output.err
    return output.err
