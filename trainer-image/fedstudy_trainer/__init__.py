"""fedstudy's data plane at a site: reads the images, trains, and speaks to nobody but the hospital's agent."""
