--
-- PostgreSQL database dump
--

\restrict i8NzSiiydjO5YtdsB8hmffULgbiPt7LGgHsghy042yEOZ6Ntb85o4cXVnYxocVl

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: public; Type: SCHEMA; Schema: -; Owner: -
--

-- *not* creating schema, since initdb creates it


--
-- Name: SCHEMA public; Type: COMMENT; Schema: -; Owner: -
--

COMMENT ON SCHEMA public IS '';


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: alembic_version; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);


--
-- Name: events; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.events (
    number integer NOT NULL,
    move character varying(32) NOT NULL,
    at double precision NOT NULL,
    kind character varying(16) NOT NULL,
    text text NOT NULL
);


--
-- Name: events_number_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.events_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: events_number_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.events_number_seq OWNED BY public.events.number;


--
-- Name: host_addresses; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.host_addresses (
    host character varying(64) NOT NULL,
    uri character varying(1024) NOT NULL,
    seen double precision NOT NULL
);


--
-- Name: hosts; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.hosts (
    uuid character varying(64) NOT NULL,
    name character varying(255) NOT NULL,
    seen double precision NOT NULL
);


--
-- Name: identity; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.identity (
    id character varying(36) NOT NULL
);


--
-- Name: kept; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.kept (
    path text NOT NULL,
    host character varying(64) DEFAULT ''::character varying NOT NULL,
    move character varying(32) NOT NULL,
    vm character varying(255) NOT NULL,
    datastore character varying(255) NOT NULL,
    expires double precision,
    size bigint NOT NULL,
    why text NOT NULL,
    since double precision,
    format character varying(16),
    fingerprint text
);


--
-- Name: move_datastores; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.move_datastores (
    move character varying(32) NOT NULL,
    role character varying(16) NOT NULL,
    name character varying(255) NOT NULL,
    identity text DEFAULT ''::text NOT NULL
);


--
-- Name: moves; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.moves (
    id character varying(32) NOT NULL,
    vm_uuid character varying(36) NOT NULL,
    vm character varying(255) NOT NULL,
    created double precision NOT NULL,
    finished double precision,
    requested_by character varying(255) NOT NULL,
    request text NOT NULL,
    plan text NOT NULL,
    record text NOT NULL,
    wanted character varying(16) NOT NULL,
    bandwidth bigint NOT NULL,
    progress text NOT NULL,
    report text,
    parked text,
    deaths integer NOT NULL,
    owner text,
    token integer NOT NULL,
    lease_expires double precision,
    kind character varying(32) DEFAULT 'storage-move'::character varying NOT NULL,
    host character varying(64) DEFAULT ''::character varying NOT NULL,
    state character varying(16) DEFAULT 'open'::character varying NOT NULL
);


--
-- Name: partial_copies; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.partial_copies (
    path text NOT NULL,
    host character varying(64) NOT NULL,
    move character varying(32) NOT NULL,
    vm_uuid character varying(36) NOT NULL,
    target character varying(64) NOT NULL,
    format character varying(16) NOT NULL,
    virtual_size bigint NOT NULL
);


--
-- Name: same_images; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.same_images (
    host character varying(64) NOT NULL,
    digest character varying(64) NOT NULL,
    prints text NOT NULL
);


--
-- Name: events number; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.events ALTER COLUMN number SET DEFAULT nextval('public.events_number_seq'::regclass);


--
-- Data for Name: alembic_version; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.alembic_version VALUES ('0003');


--
-- Data for Name: events; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: host_addresses; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.host_addresses VALUES ('6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'qemu+ssh://kvm2/system', 1796056532.0993166);
INSERT INTO public.host_addresses VALUES ('6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'qemu:///system', 1796056532.122504);


--
-- Data for Name: hosts; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.hosts VALUES ('6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'kvm1', 1796056532.122504);


--
-- Data for Name: identity; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.identity VALUES ('b696e96e-b72a-4f5b-880e-9910b861ac9b');


--
-- Data for Name: kept; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.kept VALUES ('/old-san/web09/vda.qcow2', '6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'd0000006', 'web09', 'old-san', NULL, 3221225472, 'as asked', 1700000000, 'qcow2', '{"inode":7,"size":3221225472,"mtime_ns":17}');
INSERT INTO public.kept VALUES ('/old-san/web08/vda.qcow2', '6f0c1d9e-aaaa-4bbb-8ccc-000000000002', 'd0000005', 'web08', 'old-san', NULL, 3221225472, 'as asked', NULL, NULL, NULL);


--
-- Data for Name: move_datastores; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.move_datastores VALUES ('d0000001', 'destination', 'ssd', 'network nas /vol - /fast');
INSERT INTO public.move_datastores VALUES ('d0000001', 'source', 'old-san', 'block 0b5a1c2d-3333-4444-8555-000000000003 - 6f0c1d9e-aaaa-4bbb-8ccc-000000000001 /images');
INSERT INTO public.move_datastores VALUES ('d0000002', 'destination', 'ssd', 'network nas /vol - /fast');
INSERT INTO public.move_datastores VALUES ('d0000002', 'source', 'old-san', 'block 0b5a1c2d-3333-4444-8555-000000000003 - 6f0c1d9e-aaaa-4bbb-8ccc-000000000001 /images');
INSERT INTO public.move_datastores VALUES ('d0000003', 'destination', 'ssd', 'network nas /vol - /fast');
INSERT INTO public.move_datastores VALUES ('d0000003', 'source', 'old-san', 'block 0b5a1c2d-3333-4444-8555-000000000003 - 6f0c1d9e-aaaa-4bbb-8ccc-000000000001 /images');
INSERT INTO public.move_datastores VALUES ('d0000004', 'destination', 'ssd', 'network nas /vol - /fast');
INSERT INTO public.move_datastores VALUES ('d0000004', 'source', 'old-san', 'block 0b5a1c2d-3333-4444-8555-000000000003 - 6f0c1d9e-aaaa-4bbb-8ccc-000000000001 /images');
INSERT INTO public.move_datastores VALUES ('d0000005', 'destination', 'ssd', 'network nas /vol - /fast');
INSERT INTO public.move_datastores VALUES ('d0000005', 'source', 'old-san', 'block 0b5a1c2d-3333-4444-8555-000000000003 - 6f0c1d9e-aaaa-4bbb-8ccc-000000000001 /images');
INSERT INTO public.move_datastores VALUES ('d0000006', 'destination', 'ssd', 'network nas /vol - /fast');
INSERT INTO public.move_datastores VALUES ('d0000006', 'source', 'old-san', 'block 0b5a1c2d-3333-4444-8555-000000000003 - 6f0c1d9e-aaaa-4bbb-8ccc-000000000001 /images');


--
-- Data for Name: moves; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.moves VALUES ('d0000003', '00000300-1111-4222-8333-444444444444', 'web03', 1796056532.107598, NULL, 'bob', '{}', '{"move":"d0000003","uri":"qemu:///system","vm":"web03","uuid":"00000300-1111-4222-8333-444444444444","method":"clone","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web03/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web03/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web03/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":false,"source_overlay":"/old-san/web03/o.qcow2","dest_overlay":"","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":false,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":true,"source_volume":"","data":-1,"required":-1,"reused":null}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null,"explicit":false,"shared":""},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"remove","version":8,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"resume_after":false,"trim":false,"host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001","host_name":"kvm1","directories":{"ssd":{"path":"/ssd","id":{"space":{"kind":"network","of":"nas","part":"/vol","host":""},"path":"/fast"}},"old-san":{"path":"/old-san","id":{"space":{"kind":"block","of":"0b5a1c2d-3333-4444-8555-000000000003","part":"","host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001"},"path":"/images"}}}}', '{"wanted":"go","bandwidth":0,"unexpected":0,"failure":null,"outcome":null,"form":2,"mounts":{},"created":[],"released":[],"kept":[],"disks":{},"home":{"copied":false,"fingerprints":{},"copy_fingerprints":{},"left":{},"kept":{}},"configuration":{"marked":false,"bare":false,"written":false,"snapshots_written":false,"media_tried":[]},"mirror":{"wanted":false,"forbidden":false},"fencing":{"guarded":null,"fenced":null},"measured":{"done":false,"before":null},"trim":{"asked":false,"asked_again":false},"commits":{"attempts":0,"fingerprints":{}},"switch":{"suspended":false,"begun":false,"attempts":0,"done":false,"let_run":false},"graph":{"proven":false,"committed":false,"doubt":""},"export":{"state":"none","incarnation":-1,"socket":""},"nvram":{"pending":false,"copied":"","made":""},"managed_save":{"state":"none","incarnation":-1,"since":0.0,"running":true,"fingerprint":"","attempts":0,"failed":"","stood_still_s":0.0},"lost":null}', 'go', 0, '{"phase":"queued","updated":1796056532.107598,"note":"","disks":[],"pace":""}', NULL, NULL, 0, NULL, 0, NULL, 'storage-move', '6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'open');
INSERT INTO public.moves VALUES ('d0000001', '00000100-1111-4222-8333-444444444444', 'web01', 1796056532.0795586, NULL, 'alice', '{}', '{"move":"d0000001","uri":"qemu:///system","vm":"web01","uuid":"00000100-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web01/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web01/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":true,"layers":[{"source":"/old-san/b.qcow2","source_format":"qcow2","dest":"/ssd/b.qcow2","dest_format":"qcow2","virtual_size":2147483648,"allocation":1073741824,"data":536870912,"required":629145600}],"backing":["/ssd/b.qcow2","qcow2"],"stays_below":["/ssd/t.raw","raw"],"old_files":["/old-san/web01/vda.qcow2","/old-san/b.qcow2","/old-san/b.dat"],"suspended_start":false,"cache":"none","cluster_size":65536,"has_bitmaps":true,"as_is":false,"granularity":65536,"resumable":true,"source_overlay":"/old-san/web01/vda.o.qcow2","dest_overlay":"/ssd/web01/vda.n.qcow2","overlay_suspended_start":false,"start_pause_s":0.25,"overlay_first":true,"partial_of":null,"partial_bytes":0,"preallocation":"metadata","extended_l2":true,"parts":["/old-san/web01/vda.dat"],"old_parts":["/old-san/b.dat"],"sealed":false,"luks":null,"clone":false,"source_volume":"old-san/vda.qcow2","data":2147483648,"required":2148532224,"reused":{"source":"/old-san/t.raw","path":"/ssd/t.raw","format":"raw","virtual_size":2147483648,"saved":1073741824,"prints":{"/ssd/t.raw":"1:2:3"},"source_prints":{"/old-san/t.raw":"4:5:6"},"seconds":7.5,"known":false}},{"target":"vdb","source":"/old-san/web01/vdb.qcow2","source_format":"raw","source_kind":"block","dest":"/ssd/web01/vdb.qcow2","dest_format":"raw","datastore":"ssd","source_datastore":null,"virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web01/vdb.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":true,"granularity":0,"resumable":false,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":false,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":true,"luks":{"header":2097152,"secret":{"by":"uuid","value":"0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f"}},"clone":false,"source_volume":"","data":-1,"required":-1,"reused":null}],"home":{"datastore":"ssd","dest":"/ssd/web01","source":"/old-san/web01","files":[{"source":"/old-san/web01/a.iso","dest":"/ssd/web01/a.iso","role":"iso","size":5,"target":"sda"}],"stays":[{"path":"/old-san/web01/x","why":"it is a pipe"}]},"persistent":false,"was":"paused","source":{"delete":false,"keep_s":3600.0,"explicit":true,"shared":"others use it"},"chain":"keep","bandwidth":52428800,"verify":true,"background_only":true,"on_break":"keep","version":8,"contract":{"latency_s":0.02,"slowdown":3.0},"if_not_converging":"throttle","snapshots":["before-update"],"checkpoints":["bf-1"],"nvram":{"source":"/old-san/web01/nvram.fd","dest":"/ssd/web01/nvram.fd","size":131072,"now":{"image":"/var/lib/libvirt/qemu/save/web01.save","memory":1073741824,"rate":100000000.0,"expected_s":11.0}},"hang":{"wanted":{"limit_s":5.0,"command":["auto"]},"bound":"the guest waits for 10 s at most"},"vtpm":"/var/lib/libvirt/swtpm/x","buffer":4194304,"resume_after":true,"trim":true,"host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001","host_name":"kvm1","directories":{"ssd":{"path":"/ssd","id":{"space":{"kind":"network","of":"nas","part":"/vol","host":""},"path":"/fast"}},"old-san":{"path":"/old-san","id":{"space":{"kind":"block","of":"0b5a1c2d-3333-4444-8555-000000000003","part":"","host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001"},"path":"/images"}}}}', '{"wanted":"go","bandwidth":52428800,"unexpected":0,"failure":null,"outcome":null,"form":2,"mounts":{},"created":["/ssd/web01/vda.qcow2"],"released":[],"kept":[],"disks":{"vda":{"copy":{"stage":"clean","incarnation":7,"attempts":1,"reverse":false,"synchronous":false},"layers_copied":false,"cold_copied":null,"partial":false,"synced":null,"source_overlay":"used","dest_overlay":null,"commit":null,"settled":false,"verified":false,"differences":null,"unverified":null,"throttle":null,"trimmed":null,"trimmed_again":null,"xml_before":null}},"home":{"copied":false,"fingerprints":{},"copy_fingerprints":{},"left":{},"kept":{}},"configuration":{"marked":false,"bare":false,"written":false,"snapshots_written":false,"media_tried":[]},"mirror":{"wanted":false,"forbidden":false},"fencing":{"guarded":null,"fenced":null},"measured":{"done":false,"before":null},"trim":{"asked":false,"asked_again":false},"commits":{"attempts":0,"fingerprints":{}},"switch":{"suspended":false,"begun":false,"attempts":0,"done":false,"let_run":false},"graph":{"proven":false,"committed":false,"doubt":""},"export":{"state":"none","incarnation":-1,"socket":""},"nvram":{"pending":false,"copied":"","made":""},"managed_save":{"state":"none","incarnation":-1,"since":0.0,"running":true,"fingerprint":"","attempts":0,"failed":"","stood_still_s":0.0},"lost":null}', 'go', 52428800, '{"phase":"copying","updated":1800000000.0,"note":"","disks":[{"target":"vda","phase":"copying","total":4294967296,"done":1073741824,"bulk":0,"changed":0,"passes":0,"pass_sizes":[],"rate":0.0,"seconds_left":null}],"pace":""}', NULL, NULL, 0, '{"host":"vm","boot":"2fb0b449-877d-4ef6-8252-752a3b799b38","pid":16053,"started":357438,"user":"root","namespace":"pid:[4026531836]"}', 1, 1796056552.095881, 'storage-move', '6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'open');
INSERT INTO public.moves VALUES ('d0000002', '00000200-1111-4222-8333-444444444444', 'web02', 1796056532.0993166, NULL, 'alice', '{}', '{"move":"d0000002","uri":"qemu+ssh://kvm2/system","vm":"web02","uuid":"00000200-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web02/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web02/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web02/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":false,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":false,"partial_of":"d0000005","partial_bytes":1073741824,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"source_volume":"","data":-1,"required":-1,"reused":null}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null,"explicit":false,"shared":""},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"remove","version":8,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"resume_after":false,"trim":false,"host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001","host_name":"kvm1","directories":{"ssd":{"path":"/ssd","id":{"space":{"kind":"network","of":"nas","part":"/vol","host":""},"path":"/fast"}},"old-san":{"path":"/old-san","id":{"space":{"kind":"block","of":"0b5a1c2d-3333-4444-8555-000000000003","part":"","host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001"},"path":"/images"}}}}', '{"wanted":"go","bandwidth":0,"unexpected":0,"failure":null,"outcome":null,"form":2,"mounts":{},"created":[],"released":[],"kept":[],"disks":{},"home":{"copied":false,"fingerprints":{},"copy_fingerprints":{},"left":{},"kept":{}},"configuration":{"marked":false,"bare":false,"written":false,"snapshots_written":false,"media_tried":[]},"mirror":{"wanted":false,"forbidden":false},"fencing":{"guarded":null,"fenced":null},"measured":{"done":false,"before":null},"trim":{"asked":false,"asked_again":false},"commits":{"attempts":0,"fingerprints":{}},"switch":{"suspended":false,"begun":false,"attempts":0,"done":true,"let_run":false},"graph":{"proven":false,"committed":false,"doubt":""},"export":{"state":"none","incarnation":-1,"socket":""},"nvram":{"pending":false,"copied":"","made":""},"managed_save":{"state":"none","incarnation":-1,"since":0.0,"running":true,"fingerprint":"","attempts":0,"failed":"","stood_still_s":0.0},"lost":null}', 'go', 0, '{"phase":"queued","updated":1796056532.0993166,"note":"","disks":[],"pace":""}', NULL, NULL, 0, NULL, 2, NULL, 'storage-move', '6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'open');
INSERT INTO public.moves VALUES ('d0000005', '00000500-1111-4222-8333-444444444444', 'web05', 1796056532.1160965, 1796056532.1200895, 'bob', '{}', '{"move":"d0000005","uri":"qemu:///system","vm":"web05","uuid":"00000500-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web05/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web05/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web05/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":false,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":false,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"source_volume":"","data":-1,"required":-1,"reused":null}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null,"explicit":false,"shared":""},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"remove","version":8,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"resume_after":false,"trim":false,"host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001","host_name":"kvm1","directories":{"ssd":{"path":"/ssd","id":{"space":{"kind":"network","of":"nas","part":"/vol","host":""},"path":"/fast"}},"old-san":{"path":"/old-san","id":{"space":{"kind":"block","of":"0b5a1c2d-3333-4444-8555-000000000003","part":"","host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001"},"path":"/images"}}}}', '{"wanted":"go","bandwidth":0,"unexpected":0,"failure":null,"outcome":"failed","form":2,"mounts":{},"created":[],"released":[],"kept":["/ssd/web05/vda.qcow2"],"disks":{},"home":{"copied":false,"fingerprints":{},"copy_fingerprints":{},"left":{},"kept":{}},"configuration":{"marked":false,"bare":false,"written":false,"snapshots_written":false,"media_tried":[]},"mirror":{"wanted":false,"forbidden":false},"fencing":{"guarded":null,"fenced":null},"measured":{"done":false,"before":null},"trim":{"asked":false,"asked_again":false},"commits":{"attempts":0,"fingerprints":{}},"switch":{"suspended":false,"begun":false,"attempts":0,"done":false,"let_run":false},"graph":{"proven":false,"committed":false,"doubt":""},"export":{"state":"none","incarnation":-1,"socket":""},"nvram":{"pending":false,"copied":"","made":""},"managed_save":{"state":"none","incarnation":-1,"since":0.0,"running":true,"fingerprint":"","attempts":0,"failed":"","stood_still_s":0.0},"lost":null}', 'go', 0, '{"phase":"queued","updated":1796056532.1160965,"note":"","disks":[],"pace":""}', '{"outcome":"failed","seconds":12.5,"phases":{},"bulk_bytes":0,"changed_bytes":0,"passes":0,"switch_stall_s":null,"start_stall_s":null,"switch_attempts":0,"sources":[],"notes":[],"verified":[],"guest":null,"compared_bytes":0,"rewritten_bytes":0,"trimmed_bytes":null,"trimmed_again_bytes":null,"checkpoint_stall_s":null,"firmware_stall_s":null}', NULL, 0, NULL, 2, NULL, 'storage-move', '6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'failed');
INSERT INTO public.moves VALUES ('d0000004', '00000400-1111-4222-8333-444444444444', 'web04', 1796056532.11083, NULL, 'bob', '{}', '{"move":"d0000004","uri":"qemu:///system","vm":"web04","uuid":"00000400-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web04/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web04/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web04/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":false,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":false,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"source_volume":"","data":-1,"required":-1,"reused":null}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null,"explicit":false,"shared":""},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"remove","version":8,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":{"source":"/old-san/web04/n.fd","dest":"/ssd/web04/n.fd","size":131072,"now":null},"hang":null,"vtpm":null,"buffer":1048576,"resume_after":false,"trim":false,"host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001","host_name":"kvm1","directories":{"ssd":{"path":"/ssd","id":{"space":{"kind":"network","of":"nas","part":"/vol","host":""},"path":"/fast"}},"old-san":{"path":"/old-san","id":{"space":{"kind":"block","of":"0b5a1c2d-3333-4444-8555-000000000003","part":"","host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001"},"path":"/images"}}}}', '{"wanted":"go","bandwidth":0,"unexpected":0,"failure":null,"outcome":null,"form":2,"mounts":{},"created":[],"released":[],"kept":[],"disks":{},"home":{"copied":false,"fingerprints":{},"copy_fingerprints":{},"left":{},"kept":{}},"configuration":{"marked":false,"bare":false,"written":false,"snapshots_written":false,"media_tried":[]},"mirror":{"wanted":false,"forbidden":false},"fencing":{"guarded":null,"fenced":null},"measured":{"done":false,"before":null},"trim":{"asked":false,"asked_again":false},"commits":{"attempts":0,"fingerprints":{}},"switch":{"suspended":false,"begun":false,"attempts":0,"done":true,"let_run":false},"graph":{"proven":false,"committed":false,"doubt":""},"export":{"state":"none","incarnation":-1,"socket":""},"nvram":{"pending":true,"copied":"","made":""},"managed_save":{"state":"none","incarnation":-1,"since":0.0,"running":true,"fingerprint":"","attempts":0,"failed":"","stood_still_s":0.0},"lost":null}', 'go', 0, '{"phase":"queued","updated":1796056532.11083,"note":"","disks":[],"pace":""}', '{"outcome":"moved","seconds":3.0,"phases":{},"bulk_bytes":0,"changed_bytes":0,"passes":0,"switch_stall_s":null,"start_stall_s":null,"switch_attempts":0,"sources":[],"notes":[],"verified":[],"guest":null,"compared_bytes":0,"rewritten_bytes":0,"trimmed_bytes":null,"trimmed_again_bytes":null,"checkpoint_stall_s":null,"firmware_stall_s":null}', NULL, 0, NULL, 2, NULL, 'storage-move', '6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'open');
INSERT INTO public.moves VALUES ('d0000006', '00000600-1111-4222-8333-444444444444', 'web06', 1796056532.122504, 1796056532.129699, 'bob', '{}', '{"move":"d0000006","uri":"qemu:///system","vm":"web06","uuid":"00000600-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web06/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web06/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web06/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":false,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"start_pause_s":10.0,"overlay_first":false,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"source_volume":"","data":-1,"required":-1,"reused":{"source":"/old-san/t","path":"/ssd/t","format":"raw","virtual_size":1,"saved":1,"prints":{"/ssd/t":"1:1:1"},"source_prints":{"/old-san/t":"2:2:2"},"seconds":0.0,"known":true}}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null,"explicit":false,"shared":""},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"remove","version":8,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"resume_after":false,"trim":false,"host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001","host_name":"kvm1","directories":{"ssd":{"path":"/ssd","id":{"space":{"kind":"network","of":"nas","part":"/vol","host":""},"path":"/fast"}},"old-san":{"path":"/old-san","id":{"space":{"kind":"block","of":"0b5a1c2d-3333-4444-8555-000000000003","part":"","host":"6f0c1d9e-aaaa-4bbb-8ccc-000000000001"},"path":"/images"}}}}', '{"wanted":"go","bandwidth":0,"unexpected":0,"failure":null,"outcome":"moved","form":2,"mounts":{},"created":[],"released":[],"kept":[],"disks":{},"home":{"copied":false,"fingerprints":{},"copy_fingerprints":{},"left":{},"kept":{}},"configuration":{"marked":false,"bare":false,"written":false,"snapshots_written":false,"media_tried":[]},"mirror":{"wanted":false,"forbidden":false},"fencing":{"guarded":null,"fenced":null},"measured":{"done":false,"before":null},"trim":{"asked":false,"asked_again":false},"commits":{"attempts":0,"fingerprints":{}},"switch":{"suspended":false,"begun":false,"attempts":0,"done":false,"let_run":false},"graph":{"proven":false,"committed":false,"doubt":""},"export":{"state":"none","incarnation":-1,"socket":""},"nvram":{"pending":false,"copied":"","made":""},"managed_save":{"state":"none","incarnation":-1,"since":0.0,"running":true,"fingerprint":"","attempts":0,"failed":"","stood_still_s":0.0},"lost":null}', 'go', 0, '{"phase":"queued","updated":1796056532.122504,"note":"","disks":[],"pace":""}', '{"outcome":"moved","seconds":12.5,"phases":{},"bulk_bytes":0,"changed_bytes":0,"passes":0,"switch_stall_s":null,"start_stall_s":null,"switch_attempts":0,"sources":[],"notes":[],"verified":[],"guest":null,"compared_bytes":0,"rewritten_bytes":0,"trimmed_bytes":null,"trimmed_again_bytes":null,"checkpoint_stall_s":null,"firmware_stall_s":null}', NULL, 0, NULL, 2, NULL, 'storage-move', '6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'moved');


--
-- Data for Name: partial_copies; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.partial_copies VALUES ('/ssd/web05/vda.qcow2', '6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'd0000005', '00000500-1111-4222-8333-444444444444', 'vda', 'qcow2', 4294967296);


--
-- Data for Name: same_images; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.same_images VALUES ('6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'ee2782e58b349e6f166eebbcbabe87f4ff71cc0f44dd6df8cf525a80f47785bd', '[[["/ssd/t.raw","1:2:3"]],[["/old-san/t.raw","4:5:6"]]]');
INSERT INTO public.same_images VALUES ('6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'c5ade9c6815cd119743d3990c6063b8bfafca341eeed66ef0c503ec2bd407a54', '[[["/ssd/t","1:1:1"]],[["/old-san/t","2:2:2"]]]');


--
-- Name: events_number_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.events_number_seq', 1, false);


--
-- Name: alembic_version alembic_version_pkc; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);


--
-- Name: events events_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (number);


--
-- Name: host_addresses host_addresses_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.host_addresses
    ADD CONSTRAINT host_addresses_pkey PRIMARY KEY (host, uri);


--
-- Name: hosts hosts_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.hosts
    ADD CONSTRAINT hosts_pkey PRIMARY KEY (uuid);


--
-- Name: identity identity_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.identity
    ADD CONSTRAINT identity_pkey PRIMARY KEY (id);


--
-- Name: kept kept_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.kept
    ADD CONSTRAINT kept_pkey PRIMARY KEY (path, host);


--
-- Name: move_datastores move_datastores_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.move_datastores
    ADD CONSTRAINT move_datastores_pkey PRIMARY KEY (move, role, name);


--
-- Name: moves moves_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.moves
    ADD CONSTRAINT moves_pkey PRIMARY KEY (id);


--
-- Name: partial_copies partial_copies_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.partial_copies
    ADD CONSTRAINT partial_copies_pkey PRIMARY KEY (path, host);


--
-- Name: same_images same_images_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.same_images
    ADD CONSTRAINT same_images_pkey PRIMARY KEY (host, digest);


--
-- Name: ix_events_move; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_events_move ON public.events USING btree (move);


--
-- Name: ix_partial_copies_vm_uuid; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_partial_copies_vm_uuid ON public.partial_copies USING btree (vm_uuid);


--
-- Name: move_datastores_by_name; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX move_datastores_by_name ON public.move_datastores USING btree (name);


--
-- Name: moves_by_created; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX moves_by_created ON public.moves USING btree (created);


--
-- Name: moves_by_finished; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX moves_by_finished ON public.moves USING btree (finished);


--
-- Name: moves_by_state; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX moves_by_state ON public.moves USING btree (state);


--
-- Name: one_unfinished_move_per_vm; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX one_unfinished_move_per_vm ON public.moves USING btree (vm_uuid) WHERE (finished IS NULL);


--
-- Name: events events_move_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_move_fkey FOREIGN KEY (move) REFERENCES public.moves(id) ON DELETE CASCADE;


--
-- Name: host_addresses host_addresses_host_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.host_addresses
    ADD CONSTRAINT host_addresses_host_fkey FOREIGN KEY (host) REFERENCES public.hosts(uuid) ON DELETE CASCADE;


--
-- Name: move_datastores move_datastores_move_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.move_datastores
    ADD CONSTRAINT move_datastores_move_fkey FOREIGN KEY (move) REFERENCES public.moves(id) ON DELETE CASCADE;


--
-- Name: SCHEMA public; Type: ACL; Schema: -; Owner: -
--

REVOKE USAGE ON SCHEMA public FROM PUBLIC;


--
-- PostgreSQL database dump complete
--

\unrestrict i8NzSiiydjO5YtdsB8hmffULgbiPt7LGgHsghy042yEOZ6Ntb85o4cXVnYxocVl

