-- A journal of schema version 1, as the first blockferry wrote it. Never edited: it is what we promised to read.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE events (
	number INTEGER NOT NULL, 
	move VARCHAR(32) NOT NULL, 
	at FLOAT NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	text TEXT NOT NULL, 
	PRIMARY KEY (number), 
	FOREIGN KEY(move) REFERENCES moves (id) ON DELETE CASCADE
);
INSERT INTO "events" VALUES(1,'3fa10001',1795413601.0,'phase','planned: mirror, the destination is fast');
INSERT INTO "events" VALUES(2,'3fa10001',1795413602.0,'action','copy of vda started');
INSERT INTO "events" VALUES(3,'3fa10001',1795413603.0,'user','alice set the bandwidth to 50.0 MiB/s');
INSERT INTO "events" VALUES(4,'3fb20002',1795413604.0,'phase','moved');
CREATE TABLE kept (
	path TEXT NOT NULL, 
	move VARCHAR(32) NOT NULL, 
	vm VARCHAR(255) NOT NULL, 
	datastore VARCHAR(255) NOT NULL, 
	expires FLOAT, 
	size BIGINT NOT NULL, 
	why TEXT NOT NULL, 
	PRIMARY KEY (path)
);
INSERT INTO "kept" VALUES('/old-san/db01/vda.qcow2','3fb20002','db01','old-san',1790000000.0,8589934592,'kept as asked');
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
	lease_expires FLOAT, 
	PRIMARY KEY (id)
);
INSERT INTO "moves" VALUES('3fa10001','07f29b7e-a6cf-4950-a028-a6d9510ea599','web01',1795413601.0,NULL,'alice','{"vm":"web01","to":"ssd","disks":{},"home":null,"format":null,"provision":"same","method":"auto","chain":"flatten","bandwidth":104857600,"source":{"delete":false,"keep_s":604800.0}}','{"move":"3fa10001","uri":"qemu:///system","vm":"web01","uuid":"07f29b7e-a6cf-4950-a028-a6d9510ea599","method":"mirror","method_reason":"the destination is fast","disks":[{"target":"vda","source":"/old-san/web01/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web01/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":21474836480,"allocation":8589934592,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web01/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"granularity":0},{"target":"vdb","source":"/old-san/web01/vdb.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web01/vdb.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":21474836480,"allocation":8589934592,"thick":false,"layers":[{"source":"/old-san/base.raw","source_format":"raw","dest":"/ssd/base.raw","dest_format":"raw","virtual_size":1073741824,"allocation":536870912}],"backing":["/ssd/base.raw","raw"],"stays_below":null,"old_files":["/old-san/web01/vdb.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"granularity":0}],"home":{"datastore":"ssd","dest":"/ssd/web01","source":"/old-san/web01","files":[{"source":"/old-san/web01/nvram","dest":"/ssd/web01/nvram","role":"nvram","size":4096,"target":null}]},"persistent":true,"was":"running","source":{"delete":false,"keep_s":604800.0},"chain":"flatten","bandwidth":104857600,"version":1}','{"wanted":"go","bandwidth":104857600,"marked":true,"home_copied":true,"created":["/ssd/web01","/ssd/web01/vda.qcow2","/ssd/web01/vdb.qcow2"],"layers_copied":["vdb"],"copies":{"vda":{"stage":"clean","incarnation":7,"attempts":1,"reverse":false},"vdb":{"stage":"started","incarnation":7,"attempts":2,"reverse":true}},"cold_copied":{},"suspended":true,"switching":false,"switch_attempts":0,"switched":false,"config_written":false,"settled":[],"verified":[],"released":[],"failure":null,"outcome":null}','go',52428800,'{"phase":"copy","disks":[{"target":"vda","phase":"copying","total":8589934592,"done":3221225472,"bulk":8589934592,"changed":1073741824,"passes":1,"pass_sizes":[1073741824],"rate":250000000.0,"seconds_left":20.0},{"target":"vdb","phase":"waiting","total":8589934592,"done":0,"bulk":0,"changed":0,"passes":0,"pass_sizes":[],"rate":0.0,"seconds_left":null}],"updated":1790000000.0,"note":"it waits"}',NULL,NULL,0,'{"host":"kvm1","boot":"5b1ce7d2-8c40-4c0e-9a57-3f0f6a1f2f11","pid":4711,"started":681395,"user":"root"}',1,1795413660.0);
INSERT INTO "moves" VALUES('3fb20002','7c6dd0c5-3fc5-4df0-8ff1-7a1c0c5d4d10','db01',1795413602.0,1795413700.0,'bob','{"vm":"db01","to":"ssd","disks":{},"home":null,"format":null,"provision":"same","method":"auto","chain":"flatten","bandwidth":104857600,"source":{"delete":false,"keep_s":604800.0}}','{"move":"3fb20002","uri":"qemu:///system","vm":"db01","uuid":"7c6dd0c5-3fc5-4df0-8ff1-7a1c0c5d4d10","method":"mirror","method_reason":"the destination is fast","disks":[{"target":"vda","source":"/old-san/db01/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/db01/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":21474836480,"allocation":8589934592,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/db01/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"granularity":0},{"target":"vdb","source":"/old-san/db01/vdb.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/db01/vdb.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":21474836480,"allocation":8589934592,"thick":false,"layers":[{"source":"/old-san/base.raw","source_format":"raw","dest":"/ssd/base.raw","dest_format":"raw","virtual_size":1073741824,"allocation":536870912}],"backing":["/ssd/base.raw","raw"],"stays_below":null,"old_files":["/old-san/db01/vdb.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"granularity":0}],"home":{"datastore":"ssd","dest":"/ssd/db01","source":"/old-san/db01","files":[{"source":"/old-san/db01/nvram","dest":"/ssd/db01/nvram","role":"nvram","size":4096,"target":null}]},"persistent":true,"was":"running","source":{"delete":false,"keep_s":604800.0},"chain":"flatten","bandwidth":104857600,"version":1}','{"wanted":"go","bandwidth":104857600,"marked":true,"home_copied":true,"created":["/ssd/web01","/ssd/web01/vda.qcow2","/ssd/web01/vdb.qcow2"],"layers_copied":["vdb"],"copies":{"vda":{"stage":"clean","incarnation":7,"attempts":1,"reverse":false},"vdb":{"stage":"started","incarnation":7,"attempts":2,"reverse":true}},"cold_copied":{"vda":"f1"},"suspended":false,"switching":true,"switch_attempts":1,"switched":true,"config_written":true,"settled":["vda","vdb"],"verified":["vda"],"released":["/old-san/db01/vda.qcow2"],"failure":null,"outcome":"moved"}','go',104857600,'{"phase":"queued","disks":[],"updated":1795415062.9912443,"note":""}','{"outcome":"moved","seconds":61.5,"phases":{"copy":60.0,"switch":0.05},"bulk_bytes":17179869184,"changed_bytes":1073741824,"passes":2,"switch_stall_s":0.021,"start_stall_s":0.004,"switch_attempts":1,"sources":["/old-san/db01/vda.qcow2 is kept for 7 d"],"notes":["a note"]}',NULL,0,NULL,1,NULL);
INSERT INTO "moves" VALUES('9c000003','1b4e28ba-2fa1-11d2-883f-0016d3cca427','mail',1795413603.0,NULL,'carol','{"vm":"mail","to":"ssd","disks":{},"home":null,"format":null,"provision":"same","method":"auto","chain":"flatten","bandwidth":104857600,"source":{"delete":false,"keep_s":604800.0}}','{"move":"9c000003","uri":"qemu:///system","vm":"mail","uuid":"1b4e28ba-2fa1-11d2-883f-0016d3cca427","method":"mirror","method_reason":"the destination is fast","disks":[{"target":"vda","source":"/old-san/mail/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/mail/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":21474836480,"allocation":8589934592,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/mail/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"granularity":0},{"target":"vdb","source":"/old-san/mail/vdb.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/mail/vdb.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":21474836480,"allocation":8589934592,"thick":false,"layers":[{"source":"/old-san/base.raw","source_format":"raw","dest":"/ssd/base.raw","dest_format":"raw","virtual_size":1073741824,"allocation":536870912}],"backing":["/ssd/base.raw","raw"],"stays_below":null,"old_files":["/old-san/mail/vdb.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"granularity":0}],"home":{"datastore":"ssd","dest":"/ssd/mail","source":"/old-san/mail","files":[{"source":"/old-san/mail/nvram","dest":"/ssd/mail/nvram","role":"nvram","size":4096,"target":null}]},"persistent":true,"was":"running","source":{"delete":false,"keep_s":604800.0},"chain":"flatten","bandwidth":104857600,"version":1}','{"wanted":"go","bandwidth":104857600,"marked":false,"home_copied":false,"created":[],"layers_copied":[],"copies":{},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":false,"config_written":false,"settled":[],"verified":[],"released":[],"failure":"no space left on ssd","outcome":null}','cancel',104857600,'{"phase":"queued","disks":[],"updated":1795415063.0081482,"note":""}',NULL,'vda of mail bears a job that is not ours',0,NULL,1,NULL);
CREATE UNIQUE INDEX one_unfinished_move_per_vm ON moves (vm_uuid) WHERE finished IS NULL;
CREATE INDEX ix_events_move ON events (move);
COMMIT;
