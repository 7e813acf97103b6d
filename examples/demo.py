"""The four verbs on real Sentinel-2 data; `make demo` runs this. The same as the command `eoaug demo`.

python examples/demo.py --out demo-output [--generator classical]
"""

import sys

from eoaug.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["demo"]
    main()
