"""How long a training step takes on many devices, from what it takes on one and from what is assumed of the rest.

Weak scaling: every device has the same number of pairs, so n devices make n times as many pairs per step, in

    t(n) = max(reading, slowest(n) + all_reduce(n)) + pause

* `slowest(n)`: computing on one device, times 1 + jitter * sqrt(2 ln n). All wait for the last, and that is how far the
  largest of n normal numbers lies above their mean, at most.
* `all_reduce(n)` of the gradient's B bytes: each host adds up its own (a ring), every device then exchanges its share
  with its like in the other hosts (a ring or a tree, whichever is faster), and the sums go round each host. What can be
  hidden behind the backward pass (`overlap`) is left out.
* `reading`: the host's photos for one step, decoded and resized by its readers while the devices compute.
* `pause`: what training waits for between steps (the copy of a checkpoint, validation), spread over the steps between.

Nothing else is modelled: not the way of the photos to the devices, not a network or a file server shared with others,
not what a larger batch does to what is learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What a device has to do, measured."""

    compute_seconds: float
    """Forward, backward and update of a device's pairs."""
    gradient_bytes: float
    pairs: int
    """Of each device."""
    photos_per_pair: int
    pause_seconds: float = 0.0
    """Between steps, per step."""


@dataclass(frozen=True)
class Cluster:
    """Hosts and what connects their devices; all of it assumed. One number of bytes per second is one direction's."""

    per_host: int
    """Devices of a host."""
    inside_gb: float
    """Gigabytes per second between the devices of a host, each."""
    inside_us: float
    """Microseconds until a message between them arrives."""
    between_gb: float
    """Gigabytes per second between hosts, each."""
    between_us: float
    """Microseconds until a message between hosts arrives."""
    readers: int
    """Processes of a host that decode photos."""
    messages: int = 4
    """All-reduces that the gradient is sent in, as XLA joins its arrays; each has the latency."""
    photos_per_reader: float = 0.0
    """Photos per second of each; 0: as measured."""
    photo_kb: float = 0.0
    """Kilobytes of a photo's file; 0: as measured."""
    jitter: float = 0.02
    """Standard deviation of a device's time per step, relative."""
    overlap: float = 0.0
    """Share of the all-reduce that is hidden behind the backward pass."""


@dataclass(frozen=True)
class Prediction:
    """Of a step on n devices."""

    devices: int
    hosts: int
    slowest_seconds: float
    reduce_seconds: float
    """Of the all-reduce, what cannot be hidden."""
    reading_seconds: float
    seconds: float
    """Of the step, the pauses between steps included."""
    pairs_per_second: float
    photos_per_second: float
    """Of each host, so that the devices need not wait."""
    megabytes_per_second: float
    """Of photo files, likewise."""
    readers_needed: float
    """Of each host, likewise."""

    @property
    def waits_for(self) -> str:
        """What takes the longest."""
        if self.reading_seconds > self.slowest_seconds + self.reduce_seconds:
            return "photos"
        return "the all-reduce" if self.reduce_seconds > self.slowest_seconds else "computing"


def predict(devices: int, work: Work, cluster: Cluster) -> Prediction:
    """A step on so many devices.

    Raises:
        ValueError: if they do not fill their hosts.
    """
    inside = min(devices, cluster.per_host)
    if devices < 1 or devices % inside:
        raise ValueError(f"devices: expected a multiple of {cluster.per_host} per host, or fewer, got {devices}")
    hosts = devices // inside
    slowest = work.compute_seconds * (1 + cluster.jitter * math.sqrt(2 * math.log(devices)))
    reduce = (1 - cluster.overlap) * all_reduce(inside, hosts, work.gradient_bytes, cluster)
    photos = inside * work.pairs * work.photos_per_pair
    reading = photos / (cluster.readers * cluster.photos_per_reader)
    seconds = max(reading, slowest + reduce) + work.pause_seconds
    wanted = photos / (slowest + reduce)  # per second, so that reading never holds up the devices
    return Prediction(
        devices=devices,
        hosts=hosts,
        slowest_seconds=slowest,
        reduce_seconds=reduce,
        reading_seconds=reading,
        seconds=seconds,
        pairs_per_second=devices * work.pairs / seconds,
        photos_per_second=wanted,
        megabytes_per_second=wanted * cluster.photo_kb / 1000,
        readers_needed=wanted / cluster.photos_per_reader,
    )


def all_reduce(inside: int, hosts: int, size: float, cluster: Cluster) -> float:
    """Seconds to add up `size` bytes over `hosts` hosts of `inside` devices each.

    The devices of a host share its way out, and each has but its share of the bytes to send: together they send `size`.
    """
    within = ring(inside, size, 1e9 * cluster.inside_gb, 1e-6 * cluster.inside_us * cluster.messages)
    way_out = 1e9 * cluster.between_gb, 1e-6 * cluster.between_us * cluster.messages
    return within + min(ring(hosts, size, *way_out), tree(hosts, size, *way_out))


def ring(n: int, size: float, bandwidth: float, latency: float) -> float:
    """Seconds of an all-reduce round a ring: 2 (n - 1) messages of 1/n of the bytes, each device one after another."""
    return 2 * (n - 1) * (size / n / bandwidth + latency)


def tree(n: int, size: float, bandwidth: float, latency: float) -> float:
    """Seconds of an all-reduce up and down a tree: all bytes twice, in pieces that follow each other."""
    return 0.0 if n == 1 else 2 * (size / bandwidth + math.ceil(math.log2(n)) * latency)


def on_one_machine(n: int, compute_seconds: float, size: float, bandwidth: float, latency: float) -> float:
    """Seconds of a step on n devices that are made of the same cores and the same memory.

    Each computes 1/n as fast, and of the memory's bandwidth each has 1/n.
    """
    return n * compute_seconds + ring(n, size, bandwidth / n, latency)
