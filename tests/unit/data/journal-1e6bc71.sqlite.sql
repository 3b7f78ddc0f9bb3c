-- A journal of version 1e6bc71 (schema 0003, plans of version 7, records of one flat form), as that version wrote it
-- (journal_1e6bc71.py). Never edited: it is what we promised to read.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE events (
	number INTEGER NOT NULL, 
	move VARCHAR(32) NOT NULL, 
	at FLOAT NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	text TEXT NOT NULL, 
	PRIMARY KEY (number), 
	FOREIGN KEY(move) REFERENCES moves (id) ON DELETE CASCADE
);
CREATE TABLE host_addresses (
	host VARCHAR(64) NOT NULL, 
	uri VARCHAR(1024) NOT NULL, 
	seen FLOAT NOT NULL, 
	PRIMARY KEY (host, uri), 
	FOREIGN KEY(host) REFERENCES hosts (uuid) ON DELETE CASCADE
);
INSERT INTO "host_addresses" VALUES('6f0c1d9e-aaaa-4bbb-8ccc-000000000001','qemu:///system',1.79602486331555533409e+09);
CREATE TABLE hosts (
	uuid VARCHAR(64) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	seen FLOAT NOT NULL, 
	PRIMARY KEY (uuid)
);
INSERT INTO "hosts" VALUES('6f0c1d9e-aaaa-4bbb-8ccc-000000000001','kvm1',1.79602486331555533409e+09);
CREATE TABLE identity (
	id VARCHAR(36) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "identity" VALUES('4012d962-d0bc-4a68-9439-51d1bdfb75e0');
CREATE TABLE kept (
	path TEXT NOT NULL, 
	host VARCHAR(64) DEFAULT '' NOT NULL, 
	move VARCHAR(32) NOT NULL, 
	vm VARCHAR(255) NOT NULL, 
	datastore VARCHAR(255) NOT NULL, 
	expires FLOAT, 
	size BIGINT NOT NULL, 
	why TEXT NOT NULL, 
	since FLOAT, 
	format VARCHAR(16), 
	fingerprint TEXT, 
	PRIMARY KEY (path, host)
);
CREATE TABLE move_datastores (
	move VARCHAR(32) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	identity TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (move, role, name), 
	FOREIGN KEY(move) REFERENCES moves (id) ON DELETE CASCADE
);
INSERT INTO "move_datastores" VALUES('c0000001','destination','ssd','');
INSERT INTO "move_datastores" VALUES('c0000001','source','old-san','');
INSERT INTO "move_datastores" VALUES('c0000002','destination','ssd','');
INSERT INTO "move_datastores" VALUES('c0000002','source','old-san','');
INSERT INTO "move_datastores" VALUES('c0000003','destination','ssd','');
INSERT INTO "move_datastores" VALUES('c0000003','source','old-san','');
INSERT INTO "move_datastores" VALUES('c0000004','destination','ssd','');
INSERT INTO "move_datastores" VALUES('c0000004','source','old-san','');
CREATE TABLE moves (
	id VARCHAR(32) NOT NULL, 
	vm_uuid VARCHAR(36) NOT NULL, 
	vm VARCHAR(255) NOT NULL, 
	created FLOAT NOT NULL, 
	finished FLOAT, 
	requested_by VARCHAR(255) NOT NULL, 
	request TEXT NOT NULL, 
	"plan" TEXT NOT NULL, 
	record TEXT NOT NULL, 
	wanted VARCHAR(16) NOT NULL, 
	bandwidth BIGINT NOT NULL, 
	progress TEXT NOT NULL, 
	report TEXT, 
	parked TEXT, 
	deaths INTEGER NOT NULL, 
	owner TEXT, 
	token INTEGER NOT NULL, 
	lease_expires FLOAT, kind VARCHAR(32) DEFAULT 'storage-move' NOT NULL, host VARCHAR(64) DEFAULT '' NOT NULL, state VARCHAR(16) DEFAULT 'open' NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "moves" VALUES('c0000001','00000100-1111-4222-8333-444444444444','web01',1.79602486210625195508e+09,NULL,'alice','{}','{"move":"c0000001","uri":"qemu:///system","vm":"web01","uuid":"00000100-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web01/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web01/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web01/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"/old-san/web01/vda.o.qcow2","dest_overlay":"/ssd/web01/vda.n.qcow2","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":false,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"source_volume":"","data":-1,"required":-1,"reused":null},{"target":"vdb","source":"/old-san/web01/vdb.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web01/vdb.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web01/vdb.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"/old-san/web01/vdb.o.qcow2","dest_overlay":"/ssd/web01/vdb.n.qcow2","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":false,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"source_volume":"","data":-1,"required":-1,"reused":null}],"home":{"datastore":"ssd","dest":"/ssd/web01","source":"/old-san/web01","files":[{"source":"/old-san/web01/a.iso","dest":"/ssd/web01/a.iso","role":"iso","size":5,"target":null}],"stays":[]},"persistent":true,"was":"running","source":{"delete":true,"keep_s":null,"explicit":false,"shared":""},"chain":"flatten","bandwidth":0,"verify":true,"background_only":false,"on_break":"keep","version":7,"contract":{"latency_s":0.02,"slowdown":null},"if_not_converging":"throttle","snapshots":["before-update"],"checkpoints":[],"nvram":{"source":"/old-san/web01/nvram.fd","dest":"/ssd/web01/nvram.fd","size":131072,"now":{"image":"/var/lib/libvirt/qemu/save/web01.save","memory":1073741824,"rate":100000000.0,"expected_s":11.0}},"hang":{"wanted":{"limit_s":5.0,"command":["auto"]},"bound":"the guest waits for 10 s at most"},"vtpm":null,"buffer":1048576,"resume_after":false,"trim":true,"host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001","host_name":"kvm1","directories":{}}','{"wanted":"go","bandwidth":52428800,"unexpected":2,"failure":null,"outcome":null,"marked":true,"mounts":{"/ssd":"/dev/sdb1 on /ssd"},"home_copied":true,"home_prints":{"/old-san/web01/a.iso":"5:1700000000000000000"},"home_made":{"/old-san/web01/a.iso":"5:1700000000000000001"},"home_left":{"/old-san/web01/b":"it is a pipe"},"home_kept":{"/old-san/web01/c":"its copy is in use"},"bare":true,"created":["/ssd/web01/vda.qcow2","/ssd/web01/vdb.qcow2","/ssd/web01/vdb.n.qcow2"],"layers_copied":["vda","vdb"],"copies":{"vda":{"stage":"clean","incarnation":7,"attempts":1,"reverse":false,"synchronous":true},"vdb":{"stage":"started","incarnation":7,"attempts":2,"reverse":true,"synchronous":false}},"cold_copied":{"vda":"17:3221225472:1700000000000000000"},"suspended":true,"switching":true,"switch_attempts":3,"switched":false,"let_run":false,"graph_proven":false,"graph_folded":false,"graph_doubt":"","config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{},"media_tried":[],"released":[],"guest_before":{"p50_s":0.001,"p99_s":0.004,"writes":300,"seconds":30.0},"measured":true,"trimmed":{"vda":1048576},"trimmed_again":null,"synchronous":true,"background":true,"guarded":{"places":[],"pairs":[["/old-san/web01/vda.qcow2","/ssd/web01/vda.qcow2"]],"ours":["/ssd/web01/vda.qcow2"]},"cut_off":null,"following":false,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{"vdb":{"bytes_per_s":20971520,"incarnation":7,"before":{"write_bytes_sec":0},"earlier":[41943040]}},"partial":["vdb"],"source_layers":{"vdb":"used"},"dest_layers":{"vdb":"named"},"folded_as":{"/old-san/web01/vda.o.qcow2":"18:100:1700000000000000000"},"synced":{"vdb":{"fingerprint":"19:3221225472:1700000000000000000","compared":1,"written":2,"size":3,"seconds":4.0}},"fold_attempts":1,"folds":{"vdb":"starting"},"lost":{"run":"boot:17:99","current":{"vda":"/old-san/web01/vda.qcow2"},"unclear":{"vdb":"/nowhere"},"autostart":true},"kept":[],"disks_before":{"vda":"<disk/>"}}','cancel',52428800,'{"phase":"queued","updated":1796024862.106252,"note":"","disks":[],"pace":""}',NULL,NULL,0,'{"host":"vm","boot":"822f50ca-5e5a-4739-9d82-d3745f1b3e7b","pid":10229,"started":248419,"user":"root","namespace":"pid:[4026531836]"}',1,1.79602488282400798796e+09,'storage-move','6f0c1d9e-aaaa-4bbb-8ccc-000000000001','open');
INSERT INTO "moves" VALUES('c0000002','00000200-1111-4222-8333-444444444444','web02',1.79602486289657354351e+09,NULL,'alice','{}','{"move":"c0000002","uri":"qemu:///system","vm":"web02","uuid":"00000200-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web02/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web02/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web02/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"/old-san/web02/vda.o.qcow2","dest_overlay":"/ssd/web02/vda.n.qcow2","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":false,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"source_volume":"","data":-1,"required":-1,"reused":null},{"target":"vdb","source":"/old-san/web02/vdb.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web02/vdb.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web02/vdb.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"/old-san/web02/vdb.o.qcow2","dest_overlay":"/ssd/web02/vdb.n.qcow2","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":false,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"source_volume":"","data":-1,"required":-1,"reused":null}],"home":{"datastore":"ssd","dest":"/ssd/web02","source":"/old-san/web02","files":[{"source":"/old-san/web02/a.iso","dest":"/ssd/web02/a.iso","role":"iso","size":5,"target":null}],"stays":[]},"persistent":true,"was":"running","source":{"delete":true,"keep_s":null,"explicit":false,"shared":""},"chain":"flatten","bandwidth":0,"verify":true,"background_only":false,"on_break":"keep","version":7,"contract":{"latency_s":0.02,"slowdown":null},"if_not_converging":"throttle","snapshots":["before-update"],"checkpoints":[],"nvram":{"source":"/old-san/web02/nvram.fd","dest":"/ssd/web02/nvram.fd","size":131072,"now":{"image":"/var/lib/libvirt/qemu/save/web02.save","memory":1073741824,"rate":100000000.0,"expected_s":11.0}},"hang":{"wanted":{"limit_s":5.0,"command":["auto"]},"bound":"the guest waits for 10 s at most"},"vtpm":null,"buffer":1048576,"resume_after":false,"trim":true,"host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001","host_name":"kvm1","directories":{}}','{"wanted":"go","bandwidth":0,"unexpected":0,"failure":null,"outcome":null,"marked":true,"mounts":{},"home_copied":false,"home_prints":{},"home_made":{},"home_left":{},"home_kept":{},"bare":false,"created":[],"layers_copied":[],"copies":{"vda":{"stage":"clean","incarnation":7,"attempts":1,"reverse":false,"synchronous":false}},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":true,"let_run":true,"graph_proven":true,"graph_folded":true,"graph_doubt":"QEMU was asked in vain","config_written":true,"snapshots_written":true,"settled":["vda"],"view":"held","view_of":7,"view_socket":"/run/blockferry.sock","verified":["vda"],"differences":{"vdb":[0,4096]},"unverified":{},"media_tried":["sda"],"released":["/old-san/web02/vda.qcow2"],"guest_before":null,"measured":false,"trimmed":{},"trimmed_again":{"vda":2097152},"synchronous":false,"background":false,"guarded":null,"cut_off":null,"following":false,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{},"partial":[],"source_layers":{},"dest_layers":{},"folded_as":{},"synced":{},"fold_attempts":0,"folds":{},"lost":null,"kept":[],"disks_before":{}}','go',0,'{"phase":"queued","updated":1796024862.8965735,"note":"","disks":[],"pace":""}',NULL,NULL,0,'{"host":"vm","boot":"822f50ca-5e5a-4739-9d82-d3745f1b3e7b","pid":10229,"started":248419,"user":"root","namespace":"pid:[4026531836]"}',1,1.79602488299801611899e+09,'storage-move','6f0c1d9e-aaaa-4bbb-8ccc-000000000001','open');
INSERT INTO "moves" VALUES('c0000003','00000300-1111-4222-8333-444444444444','web03',1.79602486309647607805e+09,NULL,'bob','{}','{"move":"c0000003","uri":"qemu:///system","vm":"web03","uuid":"00000300-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web03/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web03/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web03/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"/old-san/web03/vda.o.qcow2","dest_overlay":"/ssd/web03/vda.n.qcow2","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":false,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"source_volume":"","data":-1,"required":-1,"reused":null},{"target":"vdb","source":"/old-san/web03/vdb.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web03/vdb.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web03/vdb.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"/old-san/web03/vdb.o.qcow2","dest_overlay":"/ssd/web03/vdb.n.qcow2","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":false,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"source_volume":"","data":-1,"required":-1,"reused":null}],"home":{"datastore":"ssd","dest":"/ssd/web03","source":"/old-san/web03","files":[{"source":"/old-san/web03/a.iso","dest":"/ssd/web03/a.iso","role":"iso","size":5,"target":null}],"stays":[]},"persistent":true,"was":"running","source":{"delete":true,"keep_s":null,"explicit":false,"shared":""},"chain":"flatten","bandwidth":0,"verify":true,"background_only":false,"on_break":"keep","version":7,"contract":{"latency_s":0.02,"slowdown":null},"if_not_converging":"throttle","snapshots":["before-update"],"checkpoints":[],"nvram":{"source":"/old-san/web03/nvram.fd","dest":"/ssd/web03/nvram.fd","size":131072,"now":{"image":"/var/lib/libvirt/qemu/save/web03.save","memory":1073741824,"rate":100000000.0,"expected_s":11.0}},"hang":{"wanted":{"limit_s":5.0,"command":["auto"]},"bound":"the guest waits for 10 s at most"},"vtpm":null,"buffer":1048576,"resume_after":false,"trim":true,"host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001","host_name":"kvm1","directories":{}}','{"wanted":"go","bandwidth":0,"unexpected":0,"failure":null,"outcome":null,"marked":false,"mounts":{},"home_copied":false,"home_prints":{},"home_made":{},"home_left":{},"home_kept":{},"bare":false,"created":[],"layers_copied":[],"copies":{},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":true,"let_run":false,"graph_proven":false,"graph_folded":false,"graph_doubt":"","config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{"vda":"it was cancelled"},"media_tried":[],"released":[],"guest_before":null,"measured":false,"trimmed":null,"trimmed_again":null,"synchronous":false,"background":false,"guarded":null,"cut_off":null,"following":true,"nvram_copied":"20:131072:1700000000000000000","nvram_made":"21:131072:1700000000000000001","held":"saved","held_of":7,"held_at":1800000000.0,"held_running":false,"held_print":"100:1700000000000000000","hold_attempts":2,"hold_failed":"there was no space for its memory","hold_s":12.5,"throttled":{},"partial":[],"source_layers":{},"dest_layers":{},"folded_as":{},"synced":{},"fold_attempts":0,"folds":{},"lost":null,"kept":[],"disks_before":{}}','go',0,'{"phase":"queued","updated":1796024863.096476,"note":"","disks":[],"pace":""}','{"outcome":"moved","seconds":3.0,"phases":{},"bulk_bytes":0,"changed_bytes":0,"passes":0,"switch_stall_s":null,"start_stall_s":null,"switch_attempts":0,"sources":[],"notes":[],"verified":[],"guest":null,"compared_bytes":0,"rewritten_bytes":0,"trimmed_bytes":null,"trimmed_again_bytes":null,"checkpoint_stall_s":null,"firmware_stall_s":null}',NULL,0,NULL,2,NULL,'storage-move','6f0c1d9e-aaaa-4bbb-8ccc-000000000001','open');
INSERT INTO "moves" VALUES('c0000004','00000400-1111-4222-8333-444444444444','web04',1.79602486331555533409e+09,1.79602486341714644426e+09,'bob','{}','{"move":"c0000004","uri":"qemu:///system","vm":"web04","uuid":"00000400-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web04/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web04/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web04/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"/old-san/web04/vda.o.qcow2","dest_overlay":"/ssd/web04/vda.n.qcow2","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":true,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"source_volume":"","data":-1,"required":-1,"reused":null}],"home":{"datastore":"ssd","dest":"/ssd/web04","source":"/old-san/web04","files":[{"source":"/old-san/web04/a.iso","dest":"/ssd/web04/a.iso","role":"iso","size":5,"target":null}],"stays":[]},"persistent":true,"was":"running","source":{"delete":true,"keep_s":null,"explicit":false,"shared":""},"chain":"flatten","bandwidth":0,"verify":true,"background_only":false,"on_break":"keep","version":7,"contract":{"latency_s":0.02,"slowdown":null},"if_not_converging":"throttle","snapshots":["before-update"],"checkpoints":[],"nvram":{"source":"/old-san/web04/nvram.fd","dest":"/ssd/web04/nvram.fd","size":131072,"now":{"image":"/var/lib/libvirt/qemu/save/web04.save","memory":1073741824,"rate":100000000.0,"expected_s":11.0}},"hang":{"wanted":{"limit_s":5.0,"command":["auto"]},"bound":"the guest waits for 10 s at most"},"vtpm":null,"buffer":1048576,"resume_after":false,"trim":true,"host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001","host_name":"kvm1","directories":{}}','{"wanted":"go","bandwidth":0,"unexpected":0,"failure":"the destination hung","outcome":"failed","marked":false,"mounts":{},"home_copied":false,"home_prints":{},"home_made":{},"home_left":{},"home_kept":{},"bare":false,"created":[],"layers_copied":[],"copies":{},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":false,"let_run":false,"graph_proven":false,"graph_folded":false,"graph_doubt":"","config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{},"media_tried":[],"released":[],"guest_before":null,"measured":false,"trimmed":null,"trimmed_again":null,"synchronous":false,"background":false,"guarded":null,"cut_off":"/ssd","following":false,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{},"partial":[],"source_layers":{},"dest_layers":{},"folded_as":{},"synced":{},"fold_attempts":0,"folds":{},"lost":null,"kept":["/ssd/web04/vda.qcow2"],"disks_before":{}}','go',0,'{"phase":"queued","updated":1796024863.3155553,"note":"","disks":[],"pace":""}','{"outcome":"failed","seconds":12.5,"phases":{},"bulk_bytes":3221225472,"changed_bytes":0,"passes":0,"switch_stall_s":null,"start_stall_s":null,"switch_attempts":0,"sources":[],"notes":[],"verified":[],"guest":null,"compared_bytes":0,"rewritten_bytes":0,"trimmed_bytes":null,"trimmed_again_bytes":null,"checkpoint_stall_s":null,"firmware_stall_s":null}',NULL,0,NULL,2,NULL,'storage-move','6f0c1d9e-aaaa-4bbb-8ccc-000000000001','failed');
CREATE TABLE partial_copies (
	path TEXT NOT NULL, 
	host VARCHAR(64) NOT NULL, 
	move VARCHAR(32) NOT NULL, 
	vm_uuid VARCHAR(36) NOT NULL, 
	target VARCHAR(64) NOT NULL, 
	format VARCHAR(16) NOT NULL, 
	virtual_size BIGINT NOT NULL, 
	PRIMARY KEY (path, host)
);
INSERT INTO "partial_copies" VALUES('/ssd/web04/vda.qcow2','6f0c1d9e-aaaa-4bbb-8ccc-000000000001','c0000004','00000400-1111-4222-8333-444444444444','vda','qcow2',4294967296);
CREATE TABLE same_images (
	host VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	prints TEXT NOT NULL, 
	PRIMARY KEY (host, digest)
);
CREATE UNIQUE INDEX one_unfinished_move_per_vm ON moves (vm_uuid) WHERE finished IS NULL;
CREATE INDEX ix_events_move ON events (move);
CREATE INDEX moves_by_state ON moves (state);
CREATE INDEX moves_by_created ON moves (created);
CREATE INDEX moves_by_finished ON moves (finished);
CREATE INDEX move_datastores_by_name ON move_datastores (name);
CREATE INDEX ix_partial_copies_vm_uuid ON partial_copies (vm_uuid);
COMMIT;
