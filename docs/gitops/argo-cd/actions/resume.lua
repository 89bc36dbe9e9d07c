-- Go on from there.
obj.spec.suspend = false
return obj
