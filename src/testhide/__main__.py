import sys

from testhide.cli.main import main

sys.exit(main())
