--
-- PostgreSQL database dump
--

\restrict NvCz00H5cqTfrvrKE9i4oFS9jMshzcmNZgQc5NjsMmzD2eT4wL69bM5knU2Sx6r

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
    lease_expires double precision
);


--
-- Name: events number; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.events ALTER COLUMN number SET DEFAULT nextval('public.events_number_seq'::regclass);


--
-- Data for Name: alembic_version; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.alembic_version VALUES ('0002');


--
-- Data for Name: events; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.events VALUES (1, 'a0000001', 1795970562.9279265, 'phase', 'planned: changed-blocks, for the test');


--
-- Data for Name: identity; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.identity VALUES ('1d91005c-51a8-4e7e-85da-4f5e76434312');


--
-- Data for Name: kept; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.kept VALUES ('/old-san/db06/vda.qcow2', '6f0c1d9e-aaaa-4bbb-8ccc-000000000001', 'b0000004', 'db06', 'old-san', 1900000000, 3221225472, 'kept as asked', 1800000000, 'qcow2', '{"inode":17,"size":3221225472,"mtime_ns":1700000000000000000}');


--
-- Data for Name: moves; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.moves VALUES ('a0000002', '00000200-1111-4222-8333-444444444444', 'web02', 1795970562.954423, NULL, 'alice', '{}', '{"move":"a0000002","uri":"qemu:///system","vm":"web02","uuid":"00000200-1111-4222-8333-444444444444","method":"snapshot","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web02/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web02/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web02/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"/old-san/web02/o.qcow2","dest_overlay":"/ssd/web02/n.qcow2","overlay_suspended_start":true,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"reused":null}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"keep","version":4,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"trim":false}', '{"wanted":"go","bandwidth":0,"marked":true,"mounts":{},"home_copied":false,"created":[],"layers_copied":[],"copies":{},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":true,"config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{},"media_tried":[],"released":[],"guest_before":null,"measured":false,"trimmed":null,"trimmed_again":null,"synchronous":false,"background":false,"guarded":null,"cut_off":null,"following":false,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{},"partial":[],"source_layers":{"vda":"used"},"dest_layers":{},"folded_as":{},"synced":{"vda":{"fingerprint":"f","compared":1,"written":2,"size":3,"seconds":4.0}},"fold_attempts":0,"kept":[],"failure":null,"outcome":null}', 'go', 0, '{"phase":"queued","disks":[],"updated":1795970562.954423,"note":"","pace":""}', NULL, NULL, 0, '{"host":"vm","boot":"194149cc-3322-444a-b0f0-df0f6570d938","pid":21456,"started":114046,"user":"root","namespace":"pid:[4026531836]"}', 1, 1795970583.083869);
INSERT INTO public.moves VALUES ('a0000001', '00000100-1111-4222-8333-444444444444', 'web01', 1795970562.8540177, NULL, 'alice', '{"vm":"web01","to":"ssd"}', '{"move":"a0000001","uri":"qemu:///system","vm":"web01","uuid":"00000100-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web01/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web01/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[{"source":"/old-san/base.raw","source_format":"raw","dest":"/ssd/base.raw","dest_format":"raw","virtual_size":1073741824,"allocation":536870912}],"backing":null,"stays_below":null,"old_files":["/old-san/web01/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"reused":null},{"target":"vdb","source":"/old-san/web01/vdb.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web01/vdb.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web01/vdb.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"reused":{"source":"/old-san/t.raw","path":"/ssd/t.raw","format":"raw","virtual_size":1073741824,"saved":1073741824,"prints":{"/ssd/t.raw":"1:2:3"},"source_prints":{"/old-san/t.raw":"4:5:6"},"seconds":0.0,"known":false}}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"keep","version":4,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"trim":false}', '{"wanted":"go","bandwidth":0,"marked":true,"mounts":{},"home_copied":false,"created":["/ssd/web01/vda.qcow2"],"layers_copied":[],"copies":{"vda":{"stage":"clean","incarnation":7,"attempts":1,"reverse":false,"synchronous":false},"vdb":{"stage":"started","incarnation":7,"attempts":2,"reverse":false,"synchronous":false}},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":false,"config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{},"media_tried":[],"released":[],"guest_before":null,"measured":false,"trimmed":null,"trimmed_again":null,"synchronous":false,"background":false,"guarded":null,"cut_off":null,"following":false,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{},"partial":[],"source_layers":{},"dest_layers":{},"folded_as":{},"synced":{},"fold_attempts":0,"kept":[],"failure":null,"outcome":null}', 'go', 52428800, '{"phase":"copying","disks":[{"target":"vda","phase":"copying","total":4294967296,"done":3221225472,"bulk":3221225472,"changed":0,"passes":0,"pass_sizes":[],"rate":0.0,"seconds_left":null}],"updated":1800000000.0,"note":"","pace":""}', NULL, NULL, 0, '{"host":"vm","boot":"194149cc-3322-444a-b0f0-df0f6570d938","pid":21456,"started":114046,"user":"root","namespace":"pid:[4026531836]"}', 1, 1795970582.892221);
INSERT INTO public.moves VALUES ('a0000004', '00000400-1111-4222-8333-444444444444', 'web04', 1795970563.293588, NULL, 'bob', '{}', '{"move":"a0000004","uri":"qemu+ssh://kvm2/system","vm":"web04","uuid":"00000400-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web04/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web04/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web04/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"reused":null}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"keep","version":4,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"trim":false}', '{"wanted":"go","bandwidth":0,"marked":false,"mounts":{},"home_copied":false,"created":[],"layers_copied":[],"copies":{},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":false,"config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{},"media_tried":[],"released":[],"guest_before":null,"measured":false,"trimmed":null,"trimmed_again":null,"synchronous":false,"background":false,"guarded":null,"cut_off":null,"following":false,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{},"partial":[],"source_layers":{},"dest_layers":{},"folded_as":{},"synced":{},"fold_attempts":0,"kept":[],"failure":null,"outcome":null}', 'cancel', 0, '{"phase":"queued","disks":[],"updated":1795970563.293588,"note":"","pace":""}', NULL, 'no space left on ssd', 0, NULL, 2, NULL);
INSERT INTO public.moves VALUES ('a0000003', '00000300-1111-4222-8333-444444444444', 'web03', 1795970563.1207876, NULL, 'bob', '{}', '{"move":"a0000003","uri":"qemu:///system","vm":"web03","uuid":"00000300-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/web03/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/web03/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/web03/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"reused":null}],"home":{"datastore":"ssd","dest":"/ssd/web03","source":"/old-san/web03","files":[{"source":"/old-san/web03/a.iso","dest":"/ssd/web03/a.iso","role":"iso","size":5,"target":null}]},"persistent":true,"was":"running","source":{"delete":true,"keep_s":null},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"keep","version":4,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":{"source":"/old-san/web03/nvram.fd","dest":"/ssd/web03/nvram.fd","size":131072,"now":null},"hang":null,"vtpm":null,"buffer":1048576,"trim":false}', '{"wanted":"go","bandwidth":0,"marked":false,"mounts":{},"home_copied":false,"created":[],"layers_copied":[],"copies":{},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":true,"config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{},"media_tried":[],"released":[],"guest_before":null,"measured":false,"trimmed":null,"trimmed_again":null,"synchronous":false,"background":false,"guarded":null,"cut_off":null,"following":true,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{},"partial":[],"source_layers":{},"dest_layers":{},"folded_as":{},"synced":{},"fold_attempts":0,"kept":[],"failure":null,"outcome":null}', 'go', 0, '{"phase":"queued","disks":[],"updated":1795970563.1207876,"note":"","pace":""}', '{"outcome":"moved","seconds":3.0,"phases":{},"bulk_bytes":0,"changed_bytes":0,"passes":0,"switch_stall_s":null,"start_stall_s":null,"switch_attempts":0,"sources":[],"notes":[],"verified":[],"guest":null,"compared_bytes":0,"rewritten_bytes":0,"trimmed_bytes":null,"trimmed_again_bytes":null,"checkpoint_stall_s":null,"firmware_stall_s":null}', NULL, 0, NULL, 2, NULL);
INSERT INTO public.moves VALUES ('b0000001', '00000500-1111-4222-8333-444444444444', 'db05', 1795970563.483329, 1795970563.5491543, 'alice', '{}', '{"move":"b0000001","uri":"qemu:///system","vm":"db05","uuid":"00000500-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/db05/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/db05/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/db05/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"reused":null}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"keep","version":4,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"trim":false}', '{"wanted":"go","bandwidth":0,"marked":false,"mounts":{},"home_copied":false,"created":[],"layers_copied":[],"copies":{},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":false,"config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{},"media_tried":[],"released":[],"guest_before":null,"measured":false,"trimmed":null,"trimmed_again":null,"synchronous":false,"background":false,"guarded":null,"cut_off":null,"following":false,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{},"partial":[],"source_layers":{},"dest_layers":{},"folded_as":{},"synced":{},"fold_attempts":0,"kept":["/ssd/db05/vda.qcow2"],"failure":null,"outcome":"failed"}', 'go', 0, '{"phase":"queued","disks":[],"updated":1795970563.483329,"note":"","pace":""}', '{"outcome":"failed","seconds":12.5,"phases":{},"bulk_bytes":3221225472,"changed_bytes":0,"passes":0,"switch_stall_s":null,"start_stall_s":null,"switch_attempts":0,"sources":[],"notes":[],"verified":[],"guest":null,"compared_bytes":0,"rewritten_bytes":0,"trimmed_bytes":null,"trimmed_again_bytes":null,"checkpoint_stall_s":null,"firmware_stall_s":null}', NULL, 0, NULL, 2, NULL);
INSERT INTO public.moves VALUES ('b0000002', '00000500-1111-4222-8333-444444444444', 'db05', 1795970563.571991, 1795970563.6564937, 'alice', '{}', '{"move":"b0000002","uri":"qemu:///system","vm":"db05","uuid":"00000500-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/db05/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/db05/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/db05/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"reused":null}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"keep","version":4,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"trim":false}', '{"wanted":"go","bandwidth":0,"marked":false,"mounts":{},"home_copied":false,"created":[],"layers_copied":[],"copies":{},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":false,"config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{},"media_tried":[],"released":[],"guest_before":null,"measured":false,"trimmed":null,"trimmed_again":null,"synchronous":false,"background":false,"guarded":null,"cut_off":null,"following":false,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{},"partial":[],"source_layers":{},"dest_layers":{},"folded_as":{},"synced":{},"fold_attempts":0,"kept":["/ssd/db05/vda.qcow2"],"failure":null,"outcome":"cancelled"}', 'go', 0, '{"phase":"queued","disks":[],"updated":1795970563.571991,"note":"","pace":""}', '{"outcome":"cancelled","seconds":12.5,"phases":{},"bulk_bytes":3221225472,"changed_bytes":0,"passes":0,"switch_stall_s":null,"start_stall_s":null,"switch_attempts":0,"sources":[],"notes":[],"verified":[],"guest":null,"compared_bytes":0,"rewritten_bytes":0,"trimmed_bytes":null,"trimmed_again_bytes":null,"checkpoint_stall_s":null,"firmware_stall_s":null}', NULL, 0, NULL, 2, NULL);
INSERT INTO public.moves VALUES ('b0000003', '00000600-1111-4222-8333-444444444444', 'db06', 1795970563.6667507, 1795970563.7095506, 'alice', '{}', '{"move":"b0000003","uri":"qemu:///system","vm":"db06","uuid":"00000600-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/db06/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/db06/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/db06/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"reused":null}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"keep","version":4,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"trim":false}', '{"wanted":"go","bandwidth":0,"marked":false,"mounts":{},"home_copied":false,"created":[],"layers_copied":[],"copies":{},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":false,"config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{},"media_tried":[],"released":[],"guest_before":null,"measured":false,"trimmed":null,"trimmed_again":null,"synchronous":false,"background":false,"guarded":null,"cut_off":null,"following":false,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{},"partial":[],"source_layers":{},"dest_layers":{},"folded_as":{},"synced":{},"fold_attempts":0,"kept":["/ssd/db06/vda.qcow2"],"failure":null,"outcome":"failed"}', 'go', 0, '{"phase":"queued","disks":[],"updated":1795970563.6667507,"note":"","pace":""}', '{"outcome":"failed","seconds":12.5,"phases":{},"bulk_bytes":3221225472,"changed_bytes":0,"passes":0,"switch_stall_s":null,"start_stall_s":null,"switch_attempts":0,"sources":[],"notes":[],"verified":[],"guest":null,"compared_bytes":0,"rewritten_bytes":0,"trimmed_bytes":null,"trimmed_again_bytes":null,"checkpoint_stall_s":null,"firmware_stall_s":null}', NULL, 0, NULL, 2, NULL);
INSERT INTO public.moves VALUES ('b0000004', '00000600-1111-4222-8333-444444444444', 'db06', 1795970563.7257636, 1795970563.793605, 'alice', '{}', '{"move":"b0000004","uri":"qemu:///system","vm":"db06","uuid":"00000600-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/db06/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/db06/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/db06/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"partial_of":"b0000003","partial_bytes":1073741824,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"reused":null}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"keep","version":4,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"trim":false}', '{"wanted":"go","bandwidth":0,"marked":false,"mounts":{},"home_copied":false,"created":["/ssd/db06/vda.qcow2"],"layers_copied":[],"copies":{},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":false,"config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{},"media_tried":[],"released":[],"guest_before":null,"measured":false,"trimmed":null,"trimmed_again":null,"synchronous":false,"background":false,"guarded":null,"cut_off":null,"following":false,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{},"partial":[],"source_layers":{},"dest_layers":{},"folded_as":{},"synced":{},"fold_attempts":0,"kept":[],"failure":null,"outcome":"moved"}', 'go', 0, '{"phase":"queued","disks":[],"updated":1795970563.7257636,"note":"","pace":""}', '{"outcome":"moved","seconds":12.5,"phases":{},"bulk_bytes":3221225472,"changed_bytes":0,"passes":0,"switch_stall_s":null,"start_stall_s":null,"switch_attempts":0,"sources":[],"notes":[],"verified":[],"guest":null,"compared_bytes":0,"rewritten_bytes":0,"trimmed_bytes":null,"trimmed_again_bytes":null,"checkpoint_stall_s":null,"firmware_stall_s":null}', NULL, 0, NULL, 2, NULL);
INSERT INTO public.moves VALUES ('b0000005', '00000700-1111-4222-8333-444444444444', 'db07', 1795970563.7976062, 1795970563.8707397, 'alice', '{}', '{"move":"b0000005","uri":"qemu:///system","vm":"db07","uuid":"00000700-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/db07/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/db07/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/db07/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"reused":{"source":"/old-san/t.raw","path":"/ssd/t.raw","format":"raw","virtual_size":1073741824,"saved":1073741824,"prints":{"/ssd/t.raw":"1:2:3"},"source_prints":{"/old-san/t.raw":"4:5:6"},"seconds":0.0,"known":false}}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"keep","version":4,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"trim":false}', '{"wanted":"go","bandwidth":0,"marked":false,"mounts":{},"home_copied":false,"created":[],"layers_copied":[],"copies":{},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":false,"config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{},"media_tried":[],"released":[],"guest_before":null,"measured":false,"trimmed":null,"trimmed_again":null,"synchronous":false,"background":false,"guarded":null,"cut_off":null,"following":false,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{},"partial":[],"source_layers":{},"dest_layers":{},"folded_as":{},"synced":{},"fold_attempts":0,"kept":[],"failure":null,"outcome":"moved"}', 'go', 0, '{"phase":"queued","disks":[],"updated":1795970563.7976062,"note":"","pace":""}', '{"outcome":"moved","seconds":12.5,"phases":{},"bulk_bytes":3221225472,"changed_bytes":0,"passes":0,"switch_stall_s":null,"start_stall_s":null,"switch_attempts":0,"sources":[],"notes":[],"verified":[],"guest":null,"compared_bytes":0,"rewritten_bytes":0,"trimmed_bytes":null,"trimmed_again_bytes":null,"checkpoint_stall_s":null,"firmware_stall_s":null}', NULL, 0, NULL, 2, NULL);
INSERT INTO public.moves VALUES ('b0000006', '00000800-1111-4222-8333-444444444444', 'db08', 1795970563.882678, 1795970563.9415238, 'alice', '{}', '{"move":"b0000006","uri":"qemu+ssh://kvm2/system","vm":"db08","uuid":"00000800-1111-4222-8333-444444444444","method":"changed-blocks","method_reason":"for the test","disks":[{"target":"vda","source":"/old-san/db08/vda.qcow2","source_format":"qcow2","source_kind":"file","dest":"/ssd/db08/vda.qcow2","dest_format":"qcow2","datastore":"ssd","source_datastore":"old-san","virtual_size":4294967296,"allocation":3221225472,"thick":false,"layers":[],"backing":null,"stays_below":null,"old_files":["/old-san/db08/vda.qcow2"],"suspended_start":true,"cache":null,"cluster_size":null,"has_bitmaps":false,"as_is":false,"granularity":0,"resumable":true,"source_overlay":"","dest_overlay":"","overlay_suspended_start":true,"partial_of":null,"partial_bytes":0,"preallocation":"off","extended_l2":false,"parts":[],"old_parts":[],"sealed":false,"luks":null,"clone":false,"reused":null}],"home":null,"persistent":true,"was":"running","source":{"delete":true,"keep_s":null},"chain":"flatten","bandwidth":0,"verify":false,"background_only":false,"on_break":"keep","version":4,"contract":null,"if_not_converging":"wait","snapshots":[],"checkpoints":[],"nvram":null,"hang":null,"vtpm":null,"buffer":1048576,"trim":false}', '{"wanted":"go","bandwidth":0,"marked":false,"mounts":{},"home_copied":false,"created":[],"layers_copied":[],"copies":{},"cold_copied":{},"suspended":false,"switching":false,"switch_attempts":0,"switched":false,"config_written":false,"snapshots_written":false,"settled":[],"view":"none","view_of":-1,"view_socket":"","verified":[],"differences":{},"unverified":{},"media_tried":[],"released":[],"guest_before":null,"measured":false,"trimmed":null,"trimmed_again":null,"synchronous":false,"background":false,"guarded":null,"cut_off":null,"following":false,"nvram_copied":"","nvram_made":"","held":"none","held_of":-1,"held_at":0.0,"held_running":true,"held_print":"","hold_attempts":0,"hold_failed":"","hold_s":0.0,"throttled":{},"partial":[],"source_layers":{},"dest_layers":{},"folded_as":{},"synced":{},"fold_attempts":0,"kept":["/ssd/db08/vda.qcow2"],"failure":null,"outcome":"failed"}', 'go', 0, '{"phase":"queued","disks":[],"updated":1795970563.882678,"note":"","pace":""}', '{"outcome":"failed","seconds":12.5,"phases":{},"bulk_bytes":3221225472,"changed_bytes":0,"passes":0,"switch_stall_s":null,"start_stall_s":null,"switch_attempts":0,"sources":[],"notes":[],"verified":[],"guest":null,"compared_bytes":0,"rewritten_bytes":0,"trimmed_bytes":null,"trimmed_again_bytes":null,"checkpoint_stall_s":null,"firmware_stall_s":null}', NULL, 0, NULL, 2, NULL);


--
-- Name: events_number_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.events_number_seq', 1, true);


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
-- Name: moves moves_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.moves
    ADD CONSTRAINT moves_pkey PRIMARY KEY (id);


--
-- Name: ix_events_move; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_events_move ON public.events USING btree (move);


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
-- PostgreSQL database dump complete
--

\unrestrict NvCz00H5cqTfrvrKE9i4oFS9jMshzcmNZgQc5NjsMmzD2eT4wL69bM5knU2Sx6r

