# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501
"""Feeds in small, as their publishers write them; every value is made up."""

HASH = "ab" * 32
URLHAUS = f'''################################################################
# abuse.ch URLhaus Database Dump (CSV - recent URLs only)      #
# Last updated: 2026-08-22 09:00:10 (UTC)                      #
################################################################
#
# id,dateadded,url,url_status,last_online,threat,tags,urlhaus_link,reporter
"3601","2026-08-22 09:00:10","http://45.66.7.8:40123/bin.sh","online","2026-08-22 09:00:10","malware_download","32-bit,elf","https://urlhaus.abuse.ch/url/3601/","geenensp"
"3602","2026-08-22 08:59:06","https://evil.example/a,b.exe","offline","","malware_download","None","https://urlhaus.abuse.ch/url/3602/","{HASH[:4]}"
'''
THREATFOX = f'''# abuse.ch ThreatFox: recent IOCs
# "first_seen_utc","ioc_id","ioc_value","ioc_type","threat_type","fk_malware","malware_alias","malware_printable","last_seen_utc","confidence_level","is_compromised","reference","tags","anonymous","reporter"
"2026-08-22 08:00:00", "1500001", "45.66.7.9:443", "ip:port", "botnet_cc", "win.x", "None", "X RAT", "", "75", "False", "None", "x", "0", "a"
"2026-08-22 08:00:00", "1500002", "bad.example", "domain", "botnet_cc", "win.x", "None", "X RAT", "", "100", "False", "None", "x", "0", "a"
"2026-08-22 08:00:00", "1500003", "{HASH}", "sha256_hash", "payload", "win.x", "None", "X RAT", "", "50", "False", "None", "x", "0", "a"
"2026-08-22 08:00:00", "1500004", "{HASH[:32]}", "md5_hash", "payload", "win.x", "None", "X RAT", "", "50", "False", "None", "x", "0", "a"
'''
BAZAAR = f'''# MalwareBazaar recent malware samples (CSV)
# "first_seen_utc","sha256_hash","md5_hash","sha1_hash","reporter","file_name","file_type_guess","mime_type","signature","clamav","vtpercent","imphash","ssdeep","tlsh"
"2026-08-22 08:00:00", "{HASH}", "{HASH[:32]}", "{HASH[:40]}", "a", "x, y.elf", "elf", "application/x-executable", "Mirai", "n/a", "n/a", "n/a", "n/a", "n/a"
'''
FEODO = """# Feodo Tracker Botnet C2 IP blocklist
"first_seen_utc","dst_ip","dst_port","c2_status","last_online","malware"
"2026-08-01 01:02:03","45.66.7.10","443","online","2026-08-22","Emotet"
# END 1 entries
"""
DROP = """{"cidr":"45.66.8.0/22","sblid":"SBL1","rir":"ripencc"}
{"asn":64500,"rir":"ripencc"}
{"type":"metadata","timestamp":1787000000,"size":99,"records":1}
"""
NETSET = "# firehol\n45.66.7.1\n45.66.7.0/28 # inline\n45.66.7.10-45.66.7.13\n2A00:0:0::1\nnot.an.address\n"
HOSTS = "127.0.0.1 localhost\n::1 ip6-localhost\n0.0.0.0 Bad.Example worse.example # two\n192.0.2.1 sent.example\n"
ADBLOCK = (
    "[Adblock Plus]\n! Title: x\n||bad.example^\n@@||fine.bad.example^\n||half.example^$script\n/ads/*\n||a*.example^\n"
)
HSB = f"# x\n{HASH}:1234:Unix.Malware.X-1:73\n{HASH[:32]}:12:Old.MD5\n{HASH[:40]}:*:Old.SHA1\n"
SCORES = "# IP\tnumber\n45.66.7.1\t9\n45.66.7.2\t1\n"
