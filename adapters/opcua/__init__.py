"""OPC UA by subscription."""
