"""The functions of `un_async`, grouped by object. Their dependencies are imported at the first call."""
