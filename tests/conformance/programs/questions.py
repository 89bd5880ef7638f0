"""The client's own questions about a fabric."""

import nnsight

READS = {"about_the_fabric"}
ONLY = "gpt2"


def about_the_fabric(model, remote):
    if not remote:
        return {}
    status = nnsight.status()
    comparison = nnsight.compare()
    return {
        "fact_up": status.status.value,
        "fact_models": {name: dict(status[name]) for name in status},
        "fact_table": str(status),
        "fact_python_matches": comparison.python_matches,
        "fact_critical": sorted(comparison.critical_mismatches),
        "fact_packages": {
            name: comparison.packages[name]["remote"] for name in ("nnsight", "torch", "transformers")
        },
        "fact_comparison": str(comparison),
        "fact_whoami": nnsight.whoami(),
        "fact_running": nnsight.is_model_running(model.repo_id),
        "fact_running_task": nnsight.is_model_running(model.repo_id, task="text-generation"),
        "fact_other_task": nnsight.is_model_running(model.repo_id, task="fill-mask"),
        "fact_key": model.to_model_key(),
        "fact_keys": [entry["model_key"] for entry in nnsight.status(raw=True)["deployments"].values()],
    }
