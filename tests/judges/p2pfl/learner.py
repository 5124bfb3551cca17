"""An unmodified P2PFL node with a model of numbers, led by lines on standard input; answers each of them
with one line of JSON.

    learner.py ADDRESS [--step N] [--train SECONDS] [--patience SECONDS] [--tls FOLDER] [--settings FILE]

--settings is Python that sets P2PFL's Settings, and ADDRESS when that is `-`. Without it and without --tls it speaks plaintext, as it does beside Fastness. --step is what it adds to the model in each
round: with multiples of 1296, every average of two and three nodes in two rounds is exact, so that the
order of additions does not show in the model. --patience sets P2PFL's own heartbeat and message time-outs."""

import argparse
import hashlib
import json
import os
import random
import sys
import time

# P2PFL logs where it likes; the answers have a stream of their own.
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
sys.stdout = sys.stderr

import grpc  # noqa: E402
import numpy as np  # noqa: E402
from datasets import Dataset  # noqa: E402
from p2pfl.communication.commands.command import Command  # noqa: E402
from p2pfl.communication.protocols.protobuff.proto import node_pb2  # noqa: E402
from p2pfl.learning.dataset.p2pfl_dataset import P2PFLDataset  # noqa: E402
from p2pfl.learning.frameworks.learner import Learner  # noqa: E402
from p2pfl.learning.frameworks.p2pfl_model import P2PFLModel  # noqa: E402
from p2pfl.node import Node  # noqa: E402
from p2pfl.settings import Settings  # noqa: E402


class Numbers(P2PFLModel):
    """A list of arrays."""

    def get_parameters(self):
        return self.model

    def set_parameters(self, params):
        if isinstance(params, bytes):
            params, self.additional_info = self.decode_parameters(params)
        self.model = [np.array(layer) for layer in params]

    def get_framework(self):
        return "numbers"


class Adder(Learner):
    """Adds a step to every number."""

    def __init__(self, step, seconds):
        super().__init__()
        self.step = step
        self.seconds = seconds

    def fit(self):
        time.sleep(self.seconds)
        model = self.get_model()
        model.set_parameters([layer + self.step for layer in model.get_parameters()])
        model.set_contribution([self.addr], 1)
        return model

    def interrupt_fit(self):
        pass

    def evaluate(self):
        return {"first": float(self.get_model().get_parameters()[0][0])}

    def get_framework(self):
        return "numbers"


class Blob(Command):
    """A command of the tests: notes what came."""

    def __init__(self):
        self.received = []

    @staticmethod
    def get_name():
        return "note-what-came"

    def execute(self, source, round, *args, weights=None, **kwargs):
        seen = {"source": source, "args": list(args)}
        if weights is not None:
            seen |= {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
        self.received.append(seen)
        return "noted"


class Led:
    """A node and the lines that it follows."""

    def __init__(self, options):
        Settings.general.DISABLE_RAY = True
        Settings.ssl.USE_SSL = bool(options.tls)
        if options.tls:
            for name, file in [
                ("CA_CRT", "ca.pem"),
                ("SERVER_CRT", "server.pem"),
                ("SERVER_KEY", "server.key"),
                ("CLIENT_CRT", "client.pem"),
                ("CLIENT_KEY", "client.key"),
            ]:
                path = os.path.join(options.tls, file)
                assert os.path.isfile(path), path
                setattr(Settings.ssl, name, path)
        if options.settings:
            said = {"Settings": Settings}
            with open(options.settings) as file:
                exec(file.read(), said)
            options.address = said["ADDRESS"] if options.address == "-" else options.address
        if options.patience:
            Settings.heartbeat.TIMEOUT = options.patience
            Settings.general.GRPC_TIMEOUT = options.patience
        self.blob = Blob()
        self.node = Node(
            Numbers([np.zeros(1 << 14)], num_samples=1),
            P2PFLDataset(Dataset([0, 1, 2])),
            addr=options.address,
            learner=Adder(options.step, options.train),
        )
        self.protocol = self.node._communication_protocol
        self.protocol.add_command(self.blob)
        self.node.start()

    def connect(self, address):
        return self.node.connect(address)

    def neighbors(self):
        return sorted(self.node.get_neighbors())

    def watch(self, seconds):
        """Distinct heartbeats of each neighbour in that time, and who was missing at some moment."""
        heard, lost = {address: set() for address in self.node.get_neighbors()}, set()
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until:
            now = self.node.get_neighbors()
            lost |= heard.keys() - now.keys()
            for address, (_, beat) in now.items():
                heard.setdefault(address, set()).add(beat)
            time.sleep(0.1)
        return {"beats": {key: len(times) for key, times in heard.items()}, "lost": sorted(lost)}

    def learn(self, rounds, trainset):
        return self.node.set_start_learning(int(rounds), 1, int(trainset), "test")

    def progress(self):
        flow = self.node.learning_workflow
        return {
            "finished": flow.finished,
            "rounds": flow.history.count("RoundFinishedStage"),
            "trained": flow.history.count("TrainStage"),
            "now": flow.history[-1] if flow.history else "",
        }

    def model(self):
        layers = self.node.get_model().get_parameters()
        digest = hashlib.sha256()
        for layer in layers:
            digest.update(layer.tobytes())
        return {"sha256": digest.hexdigest(), "first": float(layers[0][0])}

    def weights(self, address, size):
        """Sends weights of so many bytes, whatever they are."""
        weights = random.randbytes(1 << 20) * (int(size) >> 20)
        message = self.protocol.build_weights("note-what-came", 0, weights, [self.node.addr], 1)
        begun = time.monotonic()
        self.protocol.send(address, message, raise_error=True)
        return {
            "bytes": len(weights),
            "sha256": hashlib.sha256(weights).hexdigest(),
            "seconds": round(time.monotonic() - begun, 2),
        }

    def sized(self, address, *lengths):
        """Sends messages with weights, each of so many bytes in all, at once; how each of them ended."""
        stub, calls = self.protocol._neighbors.get(address).stub, []
        for length in map(int, lengths):
            longer = self.protocol.build_weights("note-what-came", 0, bytes(length), [self.node.addr], 1)
            weights = bytes(2 * length - longer.ByteSize())
            message = self.protocol.build_weights("note-what-came", 0, weights, [self.node.addr], 1)
            assert message.ByteSize() == length
            calls.append(stub.send.future(message, timeout=60))
        return ["OK" if call.code() is grpc.StatusCode.OK else f"{call.code().name}: {call.details()}" for call in calls]

    def direct(self, address, *args):
        message = self.protocol.build_msg("note-what-came", list(args), direct=True)
        client = self.protocol._neighbors.get(address)
        return client.send(message, raise_error=True)

    def gossip(self, *args):
        self.protocol.broadcast(self.protocol.build_msg("note-what-came", list(args)))

    def received(self):
        return self.blob.received

    def forge(self, address, what, claimed, command="note-what-came"):
        """Says to a neighbour, as P2PFL's own code would, something in the name of `claimed`."""
        root = {"source": claimed, "round": -1, "cmd": command}
        message = {
            "direct": lambda: node_pb2.RootMessage(direct_message={"args": ["forged"]}, **root),
            "weights": lambda: node_pb2.RootMessage(weights={"weights": b"forged"}, **root),
            "gossip": lambda: node_pb2.RootMessage(
                gossip_message={"ttl": 0, "hash": random.getrandbits(62), "args": ["forged"]}, **root
            ),
        }.get(what, lambda: node_pb2.HandShakeRequest(addr=claimed))()
        stub = self.protocol._neighbors.get(address).stub
        try:
            getattr(stub, what, stub.send)(message, timeout=60)
            return "OK"
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"

    def stop(self):
        self.node.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--step", type=float, default=1296)
    parser.add_argument("--train", type=float, default=0)
    parser.add_argument("--patience", type=float)
    parser.add_argument("--tls")
    parser.add_argument("--settings")
    led = Led(parser.parse_args())
    print(json.dumps({"serving": led.node.addr}), file=answers)
    for line in sys.stdin:
        name, *arguments = line.split()
        try:
            answer = getattr(led, name)(*arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)
    # P2PFL's own threads are no daemons.
    os._exit(0)


main()
