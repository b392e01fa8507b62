"""NVFlare's own encryption on the work that sites and coordinator have in a round; CPU seconds as JSON.

Runs in an environment that has `nvflare` and not fedsec: ``PYTHON nvflare_he.py round PARAMS SITES``, or
``PYTHON nvflare_he.py upload PARAMS``. These are NVFlare 2.9.0's classes, with the TenSEAL that it pins (0.3.15) and
their default arguments, called as a job calls them:

- context: `HEBuilder` (CKKS, N = 8192, primes of 60, 40 and 40 bits, scale 2^40, symmetric);
- a site's upload: `HEModelEncryptor.process_dxo` (`ts.ckks_vector`), then `fobs.dumps`, in which `CKKSVectorDecomposer`
  serialises the vector;
- coordinator, each site: `fobs.loads` (`ts.ckks_vector_from`), then `HEInTimeAccumulateWeightedAggregator.accept`,
  which adds;
- a site's download: `fobs.loads`, then `HEModelDecryptor.process_dxo` (`CKKSVector.decrypt`).

The update is one vector. Left out: training, messages, and what the coordinator does once a round (`aggregate`, which
divides by the sum of weights, and serialising the mean).
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time

import numpy as np
import tenseal as ts
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_opt.he.homomorphic_encrypt import serialize_nested_dict
from nvflare.app_opt.he.intime_accumulate_model_aggregator import HEInTimeAccumulateWeightedAggregator
from nvflare.app_opt.he.model_decryptor import HEModelDecryptor
from nvflare.app_opt.he.model_encryptor import HEModelEncryptor
from nvflare.fuel.utils import fobs
from nvflare.lighter.impl.he import HEBuilder

MEMORY = 13 << 30
"""Limit on the address space of a process that encrypts one large upload, which might fill the machine."""


def job_context() -> FLContext:
    """What the filters read of a job."""
    found = FLContext()
    found.set_peer_context(FLContext())
    found.set_prop(AppConstants.CURRENT_ROUND, 0)
    return found


def client_context() -> bytes:
    builder = HEBuilder()
    builder.initialize(None, None)
    found: bytes = builder.get_serialized_context(is_client=True)
    return found


def encryptor(key: bytes) -> HEModelEncryptor:
    made = HEModelEncryptor()
    # As after the event of a run's start, which reads the context from the job's workspace.
    made.tenseal_context, made.encrypt_layers = ts.context_from(key), [True]
    return made


def update_of(site: int, params: int) -> np.ndarray:
    rng = np.random.default_rng(site)
    return rng.standard_normal(params, dtype=np.float32) * np.float32(0.01)


def upload_of(site: HEModelEncryptor, update: np.ndarray) -> bytes:
    dxo = DXO(DataKind.WEIGHT_DIFF, {"update": update}, {MetaKey.NUM_STEPS_CURRENT_ROUND: 1})
    encrypted = site.process_dxo(dxo, dxo.to_shareable(), job_context())
    data: bytes = fobs.dumps(encrypted.to_shareable())
    return data


def one_upload(params: int) -> dict[str, float]:
    """Whether one vector of so many parameters can be uploaded at all: an exception if not."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    return {"up": len(upload_of(encryptor(client_context()), update_of(0, params))) / params}


def whole_round(params: int, sites: int) -> dict[str, float]:
    """The site that takes least, the coordinator's mean over the sites, and the mean's largest error."""
    key = client_context()
    site = encryptor(key)
    expected, uploads, seconds = np.zeros(params), [], []
    for index in range(sites):
        update = update_of(index, params)
        expected += update.astype(np.float64) / sites
        began = time.process_time()
        uploads.append(upload_of(site, update))
        seconds.append(time.process_time() - began)
    aggregator, context = HEInTimeAccumulateWeightedAggregator(), job_context()
    aggregator.handle_event(EventType.START_RUN, context)
    began = time.process_time()
    for index, upload in enumerate(uploads):
        shareable = fobs.loads(upload)
        shareable.set_peer_props({ReservedKey.IDENTITY_NAME: f"site-{index}"})
        shareable.add_cookie(AppConstants.CONTRIBUTION_ROUND, 0)
        assert aggregator.accept(shareable, context), "not accepted"
    coordinator = (time.process_time() - began) / sites
    mean = from_shareable(aggregator.aggregate(context))
    serialize_nested_dict(mean.data)
    download = fobs.dumps(mean.to_shareable())
    decryptor = HEModelDecryptor()
    decryptor.tenseal_context = ts.context_from(key)
    began = time.process_time()
    received = from_shareable(fobs.loads(download))
    found = decryptor.process_dxo(received, received.to_shareable(), context).data["update"]
    return {
        "up": len(uploads[0]) / params,
        "down": len(download) / params,
        "encrypt": min(seconds),
        "coordinator": coordinator,
        "decrypt": time.process_time() - began,
        "error": float(np.abs(np.asarray(found) - expected).max()),
    }


if __name__ == "__main__":
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # TenSEAL's warnings go to standard output
    logging.disable(logging.CRITICAL)
    task, *numbers = sys.argv[1:]
    with answer:
        json.dump(one_upload(*map(int, numbers)) if task == "upload" else whole_round(*map(int, numbers)), answer)
