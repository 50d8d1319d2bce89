from testhide.cli.main import run

run()
