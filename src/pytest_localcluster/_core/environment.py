"""The environment variables of an outer job, which are not for the tasks of a test.

A pytest that torchrun, mpirun or a batch system has started inherits the variables that give its
place in that job. A task that believed them would wait for peers and coordinators that do not
exist. So a task gets the environment of the test process without them. A variable whose value has
changed since pytest began was set by the test, and stays.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["begin", "for_tasks", "is_of_a_job", "names_an_interface", "outer_job"]

_NAMES = frozenset(
    {
        # torchrun and torch.distributed
        *("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        *("LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "NODE_RANK"),
        *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE"),
        # DeepSpeed
        *("CROSS_RANK", "CROSS_SIZE"),
        # MPICH
        *("MPI_LOCALRANKID", "MPI_LOCALNRANKS", "HYDRA_CONTROL_FD", "HYDRA_HOST_FILE"),
        *("HYDRA_IFACE", "HYDRA_LAUNCHER", "HYDRA_LAUNCHER_EXEC", "HYDRA_RMK"),
        # JAX
        *("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS", "JAX_COORDINATOR_PORT"),
        *("JAX_NUM_PROCESSES", "JAX_PROCESS_COUNT", "JAX_PROCESS_ID", "JAX_LOCAL_DEVICE_IDS"),
        *("COORDINATOR_ADDRESS", "JOB_COMPLETION_INDEX"),
        *("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID", "CLOUD_TPU_TASK_ID"),
        # TensorFlow
        "TF_CONFIG",
        # Grid Engine, as Open MPI reads it
        "PE_HOSTFILE",
    }
)

_PREFIXES = (
    *("TORCHELASTIC_", "PET_"),  # torchrun
    *("SLURM_", "SLURMD_", "SRUN_"),
    *("OMPI_", "ORTE_", "PRTE_"),  # Open MPI
    *("PMI_", "PMI2_", "PMIX_"),
    *("HYDI_", "MV2_COMM_WORLD_", "I_MPI_HYDRA_"),  # MPICH, MVAPICH, Intel MPI
    *("DMLC_", "BYTEPS_"),  # parameter servers of MXNet and its heirs
    "HOROVOD_",
    "MEGASCALE_",  # JAX on several slices of TPUs
    "PADDLE_",
    *("PBS_", "LSB_", "JSM_NAMESPACE_", "ALPS_APP_", "FLUX_"),  # other batch systems
)

_INTERFACE_SUFFIX = "_SOCKET_IFNAME"  # of GLOO, NCCL, TP (TensorPipe) and vendors' like them
_INTERFACES = frozenset({"NCCL_OOB_NET_IFNAME", "CCL_KVS_IFACE", "FI_TCP_IFACE"})


def is_of_a_job(name: str) -> bool:
    """Return whether a variable gives a process its place in a job."""
    return name in _NAMES or name.startswith(_PREFIXES)


def names_an_interface(name: str) -> bool:
    """Return whether the value of a variable is the network interface that peers are met on."""
    return name.endswith(_INTERFACE_SUFFIX) or name in _INTERFACES


def outer_job() -> dict[str, str]:
    """Return those variables of this process that are of a job or name an interface."""
    return {
        name: value
        for name, value in os.environ.items()
        if is_of_a_job(name) or names_an_interface(name)
    }


_at_beginning = outer_job()


def begin(outer: Mapping[str, str]) -> dict[str, str]:
    """Take ``outer`` for the variables of an outer job from now on; return those before.

    Until the first call they are those that this process had when it imported this module.
    """
    global _at_beginning
    before, _at_beginning = _at_beginning, dict(outer)
    return before


def for_tasks(*, loopback: bool = True) -> dict[str, str]:
    """Return the environment of this process without the variables of the outer job.

    Args:
        loopback: whether tasks meet on the loopback interface of this machine. If so, the outer
            job's choice of an interface is replaced with that.
    """
    environ = dict(os.environ)
    for name, value in _at_beginning.items():
        if environ.get(name) != value:
            continue
        if not names_an_interface(name):
            del environ[name]
        elif loopback:
            environ[name] = _loopback()
    return environ


def _loopback() -> str:
    """Return the name of the loopback interface: ``lo`` on Linux, ``lo0`` on BSD and macOS."""
    import socket  # only where it is needed: the plugin imports this module

    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), "lo")
