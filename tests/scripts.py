"""Scripts that `test_preload` runs plainly and by a template, which must make no difference.

One text a group; each script begins with a line `# --` and its name. Raw: what is written is what is run.
"""

from __future__ import annotations


def scripts_in(text: str) -> dict[str, str]:
    """Give the scripts of a text by their names."""
    parts = [part.partition("\n") for part in text.split("\n# -- ")[1:]]
    return {name: source for name, _, source in parts}


ENDINGS = scripts_in(r"""
# -- returns
print('x')
# -- exits with 3
import sys; sys.exit(3)
# -- exits with None
import sys; sys.exit()
# -- exits with a text
import sys; sys.exit('sorry, ä')
# -- exits with 300
raise SystemExit(300)
# -- exits with an object
raise SystemExit([1, 2])
# -- exits at once
import os, sys; print('never seen'); sys.stderr.write('seen\n'); os._exit(7)
# -- raises
import json
def f(x):
    return json.loads(x)
f('{')
# -- raises from
try:
    1 / 0
except Exception as e:
    raise ValueError('no') from e
# -- raises its own
class Mine(Exception):
    pass
raise Mine('x')
# -- raises a group
raise ExceptionGroup('g', [ValueError(1)])
# -- is interrupted
print('x')
raise KeyboardInterrupt
# -- interrupts itself
import os, signal
print('x')
os.kill(os.getpid(), signal.SIGINT)
import time
time.sleep(60)
# -- is terminated
import os, signal
print('lost')
os.kill(os.getpid(), signal.SIGTERM)
# -- is killed
import os, signal
print('x', flush=True)
os.kill(os.getpid(), signal.SIGKILL)
# -- aborts
import os
os.abort()
# -- is no Python
def f(:
    pass
# -- is indented badly
if True:
print('x')
# -- has a strange encoding
# coding: no-such-coding
print('x')
# -- has an odd escape
print('\d')
# -- is empty

# -- imports nothing that is there
import no_such_module_at_all
# -- fails to import a name
from json import no_such_name
# -- recurses
def f():
    f()
f()
# -- closes standard output
import sys
print('x')
sys.stdout.close()
# -- writes to a closed descriptor
import os
print('x')
os.close(1)
# -- breaks a pipe
import os
r, w = os.pipe()
os.close(r)
os.write(w, b'x')
""")

AT_THE_END = scripts_in(r"""
# -- atexit
import atexit
atexit.register(print, 'first')
atexit.register(lambda: 1 / 0)
print('x')
# -- an atexit that exits
import atexit, sys
atexit.register(sys.exit, 5)
# -- a file that is not closed
f = open('unclosed.txt', 'w')
f.write('x' * 10)
import atexit
atexit.register(lambda: print(open('unclosed.txt').read()))
# -- a finaliser
import sys, json
class A:
    def __del__(self):
        print('gone', json, sys)
a = A()
# -- a cycle
class A:
    def __del__(self):
        print('gone')
a = A()
a.a = a
del a
# -- a thread
import threading, time
def f():
    time.sleep(0.2)
    print('thread')
threading.Thread(target=f).start()
print('main')
# -- a daemon thread
import threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
# -- a thread that raises
import threading
t = threading.Thread(target=lambda: 1 / 0, name='t')
t.start()
t.join()
# -- an excepthook
import sys
sys.excepthook = lambda *a: print('hook', a[0], a[2].tb_frame.f_back)
1 / 0
# -- a broken excepthook
import sys
def hook(*a):
    raise ValueError('hook')
sys.excepthook = hook
1 / 0
# -- a weak reference
import weakref
class A:
    pass
a = A()
weakref.finalize(a, print, 'finalised')
# -- logging
import logging
logging.basicConfig()
logging.warning('w %s', logging.getLogger().handlers)
# -- threads of a pool
from concurrent.futures import ThreadPoolExecutor as P
print(list(P(3).map(abs, [-1, 2])))
# -- asyncio
import asyncio
async def f():
    await asyncio.sleep(0)
    return 7
print(asyncio.run(f()))
""")

USES = scripts_in(r"""
# -- processes that fork
import multiprocessing as m, os
if __name__ == '__main__':
    with m.get_context('fork').Pool(2) as p:
        print(p.map(abs, [-1, 2]))
# -- processes that spawn
import multiprocessing as m
def f(x):
    return x * x
if __name__ == '__main__':
    with m.get_context('spawn').Pool(2) as p:
        print(p.map(f, [-1, 2]))
# -- a server of forks
import multiprocessing as m
def f(x):
    return x * x
if __name__ == '__main__':
    with m.get_context('forkserver').Pool(2) as p:
        print(p.map(f, [-1, 2]))
# -- a queue
import multiprocessing as m
if __name__ == '__main__':
    q = m.Queue()
    p = m.Process(target=q.put, args=(3,))
    p.start()
    print(q.get())
    p.join()
    print(p.exitcode)
# -- subprocess
import subprocess, sys
code = 'import sys, os; print(sys.argv, os.environ["MINE"]); sys.exit(3)'
print(subprocess.run([sys.executable, '-c', code], capture_output=True))
print(subprocess.check_output('echo $MINE $PISA_MARK; cat', shell=True))
# -- os.system
import os
print(os.system('echo $MINE; exit 3'), flush=True)
print(os.getenv('MINE'))
# -- os.execv
import os, sys
os.execv(sys.executable, [sys.executable, '-c', 'print(7)'])
# -- os.fork
import os
print('x', flush=True)
if os.fork() == 0:
    print('child')
else:
    os.wait()
# -- pickle
import pickle
class A:
    pass
data = pickle.dumps(A())
print(data, pickle.loads(data))
# -- dataclasses
from dataclasses import dataclass
@dataclass
class A:
    x: int = 1
print(A(), A.__module__)
# -- annotations
x: int = 1
print(__annotations__)
# -- inspect
import inspect, sys
def f(): pass
print(inspect.getsource(f), inspect.stack(), inspect.getfile(f))
# -- doctest
'''
>>> 1 + 1
3
'''
import doctest
print(doctest.testmod())
# -- signals
import signal, os
signal.signal(signal.SIGUSR1, lambda *a: print('usr1'))
os.kill(os.getpid(), signal.SIGUSR1)
signal.alarm(1)
signal.pause()
# -- its own module
import helper, sys
print(helper.f(), helper.__file__, 'helper' in sys.modules)
# -- a module that fails
import broken
# -- runpy
import runpy
print(sorted(runpy.run_path('helper.py'))[-1])
# -- help
import argparse
p = argparse.ArgumentParser(description='d')
p.add_argument('-n')
p.parse_args(['-h'])
# -- a wrong argument
import argparse
p = argparse.ArgumentParser()
p.add_argument('-n', type=int)
p.parse_args()
""")

LIBRARIES = scripts_in(r"""
# -- numpy
import sys, numpy as np
rng = np.random.default_rng(int(sys.argv[1]))
a = rng.normal(size=(50, 50))
print(np.linalg.svd(a)[1][:5], np.fft.fft(a[0])[:3])
np.savetxt(sys.stdout, a[:2, :2])
print(np.ones(3) / np.zeros(3))
np.empty((1 << 60,))
# -- scipy
import sys
from scipy import optimize, stats, integrate
import scipy
print(optimize.minimize(lambda x: (x[0] - float(sys.argv[1])) ** 2, [0.0]).x)
print(stats.norm.rvs(size=3, random_state=1), integrate.quad(lambda x: x, 0, 1), scipy.special.gamma(4.5))
# -- pandas
import io, sys
import pandas as pd
frame = pd.read_csv(io.StringIO('a,b\n1,2\n3,4'))
print(frame.describe(), frame.groupby('a').sum(), pd.Timestamp('2026-01-01').tz_localize('Europe/Berlin'))
frame.to_csv(f'frame{sys.argv[1]}.csv')
frame['c']
# -- matplotlib
import hashlib, sys
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
plt.plot([1, 3, 2])
plt.title(sys.argv[1])
plt.savefig(f'{sys.argv[1]}.png')
print(hashlib.md5(open(f'{sys.argv[1]}.png', 'rb').read()).hexdigest(), matplotlib.get_backend())
""")
