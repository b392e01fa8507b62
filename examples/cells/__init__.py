"""What the experiments share: cells that are resumed after a kill, the file of their rows, progress, and figures."""

from fedsec.cli.app import quieten_libraries

quieten_libraries()  # before torch is loaded: how idle threads wait is settled then
