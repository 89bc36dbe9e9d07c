-- Which buttons Argo CD shows for a FederatedStudy or a SiteParticipant.
local actions = {}
local suspended = obj.spec.suspend == true
actions["suspend"] = { ["disabled"] = suspended }
actions["resume"] = { ["disabled"] = not suspended }
return actions
