"""`python -m appliance.cli`: the program without its entry point being installed."""

import sys

from appliance.cli import main

sys.exit(main())
