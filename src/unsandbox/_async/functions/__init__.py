"""The functions of `un_async`, by what they are about. They cost little until they are called."""
