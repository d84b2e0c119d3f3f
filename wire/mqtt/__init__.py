"""The one MQTT client of edgebed: MQTT 5 and 3.1.1, for event loops and for threads.

options         what a connection needs: login, will, session, limits; which version to try next
errors          why a connection failed or ended, one type and one sentence each
dialler         TCP and TLS
packet_socket   MQTT packets out of a socket's bytes, limited in size
connection      one connection without a loop; the only module that imports paho
async_client    a connection in an asyncio event loop
blocking_client a connection in a thread of its own
"""
