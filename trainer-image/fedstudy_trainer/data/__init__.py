"""A hospital's data as the trainer sees it: tables, images, checks before training, phantom cohorts."""
