"""What people type; each module is a command or, such as `console`, what commands share."""

COMMANDS = {
    "launch": "do runs: kn-sweeps launch -m method=kn,rome dataset=blimp",
    "status": "how a sweep is doing; cancel, retry, logs, forget",
    "answers": "what a run's model answered before and after, question by question",
    "table": "compare finished runs",
    "report": "all of a sweep as one HTML file",
    "judged": "answers for judges, and their verdicts as a scorer",
    "figures": "the figures of the studies",
    "sync": "bring runs to Weights & Biases, or up to date there",
    "dashboard": "runs on a local page, without an account",
    "wandb-report": "a sweep's comparison as a saved W&B workspace and report",
    "export": "one edited model as a checkpoint",
    "harness": "tasks of lm-evaluation-harness on one edited model",
    "memory": "what a model and a method need of memory, told by the model's config",
    "prefetch": "fetch what runs need, for nodes without internet",
    "cache": "what is cached, and clearing it",
    "completion": "print what makes bash, zsh or fish complete all this",
}
"""What each module of `commands` and each main module of `analysis` does, in one line."""

OF_ANALYSIS = ("table", "report", "judged", "figures", "wandb-report")
"""Those whose modules lie in `analysis`."""
