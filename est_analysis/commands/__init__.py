"""The commands of `est`, one file each: arguments in, a call, text or JSON out. Heavy imports wait for the call."""
