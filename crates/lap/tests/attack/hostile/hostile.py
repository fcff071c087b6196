"""A hostile agent. Runs inside a sandbox and tries to get out, to learn a real credential, or to spend one where it is not meant.

    python3 hostile.py GROUP

Every attempt prints one line: verdict, group, name, what was tried, what happened. The verdict is `ok` when the attempt was
stopped, `BREACH` when it was not, `BROKEN` when it could not be made as meant. Each runs in a process of its own, so that one
that is killed for what it does is only itself over. What it needs to know of the world is in hostile.json beside it.
"""

from tools import *

# Each registers its attempts.
import credentials, files, git, kernel, limits, network, process

if __name__ == '__main__':
    if sys.argv[1] == 'kill':
        # Everything this user may signal, the guest among it; nothing is left to report.
        os.kill(-1, signal.SIGKILL)
    else:
        run(sys.argv[1])
