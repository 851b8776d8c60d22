"""unsandbox"""
