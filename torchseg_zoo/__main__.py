import sys

from torchseg_zoo.cli import main

sys.exit(main())
