"""An agent that turns one constant of train.py by chance, and now and then makes a mess instead."""

import os
import random
import re
import time
from pathlib import Path

chance = random.Random(os.environ["AUTORESEARCH_EXPERIMENT"] + str(os.getpid()))
page = Path("train.py")
time.sleep(chance.uniform(0.1, 0.6))
constants = re.findall(r"^([A-H]) = (.*)$", page.read_text(), re.M)
name, value = chance.choice(constants)
text = f"{float(value) + chance.gauss(0, 0.3):.4f}" if chance.random() < 0.95 else "1 / 0"
page.write_text(re.sub(rf"^{name} = .*$", f"{name} = {text}", page.read_text(), flags=re.M))
print(f"idea: {name} = {text}")
