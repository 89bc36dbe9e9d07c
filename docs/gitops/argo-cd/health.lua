-- Health of FederatedStudy, SiteParticipant and SiteDataset for Argo CD, by the kstatus conventions that they follow:
-- Reconciling and Stalled are there only while they are true; Ready says that the spec is in effect.
local health = { status = "Progressing", message = "Waiting for the operator" }
if obj.metadata.deletionTimestamp ~= nil then
  health.message = "Being deleted"
  return health
end
if obj.status == nil or obj.status.conditions == nil then
  return health
end
if obj.status.observedGeneration ~= nil and obj.status.observedGeneration ~= obj.metadata.generation then
  health.message = "Waiting for the operator to see generation " .. tostring(obj.metadata.generation)
  return health
end

local by_type = {}
for _, condition in ipairs(obj.status.conditions) do
  by_type[condition.type] = condition
end

local function said(condition)
  local message = condition.message
  if message ~= nil and message ~= "" then
    return condition.reason .. ": " .. message
  end
  return condition.reason
end

local reconciling, stalled, ready = by_type.Reconciling, by_type.Stalled, by_type.Ready
if reconciling ~= nil and reconciling.status == "True" then
  health.message = said(reconciling)
  return health
end
if stalled ~= nil and stalled.status == "True" then
  health.status = "Degraded"
  health.message = said(stalled)
  return health
end
if ready ~= nil then
  health.message = said(ready)
  if ready.status == "True" then
    health.status = "Healthy"
    if ready.reason == "SuspendedByUser" then
      health.status = "Suspended"
    end
  end
end
return health
