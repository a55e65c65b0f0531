"""The training script, as it was before Lockgate: python train.py"""

import torch
from digits import read_digits
from network import Net, fit

if __name__ == "__main__":
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, read_digits())
    net = Net(hidden=16)
    fit(net, images[:1200], labels[:1200], lr=0.05, momentum=0.0, epochs=8, report=print)
    print("accuracy", (net(images[1200:]).argmax(1) == labels[1200:]).float().mean().item())  # noqa: T201
