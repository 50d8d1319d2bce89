"""Makes the application of the servers that are forked from this process, and keeps them from looking for garbage in
what it has imported: both would cost each of them a third of a second of CPU time.
"""

import gc

from testhide.processes import application

application()
gc.collect()
gc.freeze()
