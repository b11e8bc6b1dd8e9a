"""Publish a model of your own on the Hugging Face hub, and see that it is the same from there.

hf auth login
python examples/publish.py runs/mine/best.safetensors me/street [--public]
"""

import argparse
import sys

import torch

import torchseg_zoo as tsz
from torchseg_zoo.errors import ZooError

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("model", help="file of the model")
parser.add_argument("repository", help="ORGANISATION/NAME; made if need be")
parser.add_argument("--public", action="store_true", help="for all to see; private without it")
options = parser.parse_args()

try:
    model = tsz.load_model(options.model)
    url = model.push_to_hub(options.repository, private=not options.public)
    commit = url.rpartition("/")[2]
    published = tsz.from_pretrained(options.repository, revision=commit)
except ZooError as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)

tensors = published.state_dict()
same = all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())
print(url)
print(f"{len(tensors)} tensors, {'the same' if same else 'DIFFERENT'} when loaded from there")
print(f"tsz.from_pretrained({options.repository!r}, revision={commit!r})")
sys.exit(0 if same else 1)
