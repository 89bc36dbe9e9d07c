"""fedstudy's core: what the aggregator, the agent and the trainer share; it needs neither torch nor Kubernetes."""

__version__ = "0.1.0"
