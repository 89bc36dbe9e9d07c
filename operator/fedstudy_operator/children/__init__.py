"""Builders of the objects that fedstudy makes in a cluster: pure functions from resources to manifests, with fixed names."""
