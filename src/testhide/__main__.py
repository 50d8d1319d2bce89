import sys

from testhide.cli import main

sys.exit(main())
