-- Stop after what is under way; nothing is lost.
obj.spec.suspend = true
return obj
