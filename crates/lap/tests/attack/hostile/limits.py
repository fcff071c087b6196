"""Using more than its share. These wear a sandbox out."""

# The tools bring the standard library along.
from tools import *


@attempt('limits', 'fork until nothing forks any more')
def fork_bomb():
    pids, problem = [], None
    while len(pids) < 20000:
        try:
            pid = os.fork()
        except OSError as error:
            problem = errno.errorcode[error.errno]
            break
        if pid == 0:
            signal.pause()
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if problem is None:
        raise Breach('%d processes' % len(pids))
    return '%s after %d processes' % (problem, len(pids))


@attempt('limits', 'fill the disk')
def fill_disk():
    # Allocated, not written: whoever searches the disk afterwards is spared the bytes.
    written, step = 0, 8 << 20
    file = os.open('/work/fill', os.O_CREAT | os.O_WRONLY)
    try:
        while written < 1 << 30:
            os.posix_fallocate(file, written, step)
            written += step
        raise Breach('%d bytes' % written)
    except OSError as problem:
        return '%s after %d MiB' % (errno.errorcode[problem.errno], written >> 20)
    finally:
        os.close(file)
        os.unlink('/work/fill')


@attempt('limits', 'more files than the disk may hold')
def fill_inodes():
    os.makedirs('/work/many', exist_ok=True)
    try:
        for number in range(200000):
            os.mknod('/work/many/%d' % number)
    except OSError as problem:
        seen = '%s after %d files' % (errno.errorcode[problem.errno], number)
    else:
        raise Breach('200000 files')
    subprocess.run(['rm', '-rf', '/work/many'])
    return seen


@attempt('limits', 'more open files than allowed')
def open_files():
    files = []
    try:
        while len(files) < 200000:
            files.append(os.open('/dev/null', os.O_RDONLY))
    except OSError as problem:
        return '%s after %d' % (errno.errorcode[problem.errno], len(files))
    raise Breach('%d descriptors' % len(files))


@attempt('limits', 'take more memory than there is', dies=(signal.SIGKILL,))
def memory_hog():
    held, limit = [], WORLD['memory'] + (256 << 20)
    try:
        while sum(map(len, held)) < limit:
            block = mmap.mmap(-1, 32 << 20)
            for at in range(0, len(block), 4096):
                block[at] = 1
            held.append(block)
    except (MemoryError, OSError) as problem:
        return 'refused after %d MiB: %s' % (len(held) * 32, problem)
    raise Breach('%d MiB' % (len(held) * 32))
