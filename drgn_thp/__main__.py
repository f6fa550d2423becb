# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m drgn_thp`` is ``drgn-thp``."""

import sys

from .cli import main

sys.exit(main())
