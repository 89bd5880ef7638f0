"""Key-value caches, taken apart into the keys and values of their layers.

Only those of one class, with layers of one class, of which every attribute is known: others stay opaque. A cache grows in the course of its
pass, so it is served only where it is final. From there on it is an object like any other: the same one wherever the job meets
it again.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from edif.executor.merging.misfit import Misfit

_OF_CACHE = frozenset({"layers", "layer_class_to_replicate", "offloading"})
_OF_LAYER = frozenset({"keys", "values", "is_initialized", "dtype", "device"})


def tensors_of(cache: Any) -> list[torch.Tensor] | None:
    """Keys and values, layer by layer; None if this is not a cache of the kind that is known."""
    if type(cache) is not DynamicCache or vars(cache).keys() != _OF_CACHE or type(cache.layers) is not list:
        return None
    plain = cache.offloading is False and cache.layer_class_to_replicate in (None, DynamicLayer)
    if not plain or not all(_known(each) for each in cache.layers):
        return None
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def _known(layer: Any) -> bool:
    if type(layer) is not DynamicLayer or vars(layer).keys() != _OF_LAYER or layer.is_initialized is not True:
        return False
    return all(
        type(each) is torch.Tensor and (each.dtype, each.device) == (layer.dtype, layer.device)
        for each in (layer.keys, layer.values)
    )


def cache_of(tensors: Sequence[torch.Tensor], layer_class: type | None) -> DynamicCache:
    """A cache of these keys and values.

    Args:
        layer_class: its ``layer_class_to_replicate``.
    """
    cache = DynamicCache()
    cache.layer_class_to_replicate = layer_class
    for keys, values in zip(tensors[::2], tensors[1::2], strict=True):
        layer = DynamicLayer()
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        layer.dtype, layer.device = keys.dtype, keys.device
        cache.layers.append(layer)
    return cache


def holds(cache: Any, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether it is made of these very tensors."""
    held = tensors_of(cache)
    return (
        held is not None
        and len(held) == len(tensors)
        and all(one is other for one, other in zip(held, tensors, strict=True))
    )


class Snapshot:
    """Of what tensors some caches are made now."""

    def __init__(self, caches: Sequence[Any]) -> None:
        self.caches = list(caches)
        self._tensors = [tensors_of(each) or [] for each in caches]

    @property
    def holds(self) -> bool:
        """Whether they still are."""
        return all(holds(cache, tensors) for cache, tensors in zip(self.caches, self._tensors, strict=True))

    def but(self, others: Sequence[Any]) -> "Snapshot":
        """That of those that are none of the others."""
        rest = Snapshot([])
        for cache, tensors in zip(self.caches, self._tensors, strict=True):
            if not any(cache is each for each in others):
                rest.caches.append(cache)
                rest._tensors.append(tensors)
        return rest


class ShownCaches:
    """The key-value caches that a job has been shown in a pass."""

    def __init__(self) -> None:
        self._earlier = Snapshot([])

    @property
    def caches(self) -> list[Any]:
        return self._earlier.caches

    def note(self, shown: Sequence[Any]) -> None:
        """A visit is over, at which it was shown these.

        Raises:
            Misfit: it has changed another one, which in a pass of its own it might meet again.
        """
        others = self._earlier.but(shown)
        if not others.holds:
            raise Misfit("it changes a key-value cache after the pass has gone on")
        self._earlier = Snapshot([*others.caches, *shown])
