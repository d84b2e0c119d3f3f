"""`edgebed` with one more kind: `python sim.py sim run tank --seed 3 --fault leak@60x2`."""

import simulators
from edgebed.cli import main

simulators.KINDS["tank"] = ("tank", "TankSensor")
main()
