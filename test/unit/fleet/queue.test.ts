// SPDX-License-Identifier: Apache-2.0
/** Where a queue is, and what lets one in. */
import { execFileSync } from 'node:child_process'
import { chmodSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { connectionOf } from '../../../server/cli/queueOptions.ts'
import { parseQueue } from '../../../server/fleet/queue.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'

const folder = privateFolder(tmpdir(), 'queue-')
afterAll(() => rmSync(folder, { recursive: true }))

function file(name: string, text: string, mode = 0o600): string {
  const path = join(folder, name)
  writeFileSync(path, text)
  chmodSync(path, mode)
  return path
}

test.each([
  ['redis://queue.example', { host: 'queue.example', port: 6379, db: 0 }],
  ['redis://queue.example/', { host: 'queue.example', port: 6379, db: 0 }],
  ['redis://worker@10.0.0.7:6380/3', { host: '10.0.0.7', port: 6380, db: 3, username: 'worker' }],
  ['redis://a%40b@h', { host: 'h', port: 6379, db: 0, username: 'a@b' }],
  ['rediss://queue.example', { host: 'queue.example', port: 6379, db: 0, tls: { servername: 'queue.example' } }],
  ['rediss://[::1]:7000', { host: '::1', port: 7000, db: 0, tls: {} }],
])('%s', (text, expected) => {
  expect(parseQueue(text)).toEqual(expected)
})

test.each([
  ['http://queue.example', 'expected redis://'],
  ['queue.example:6379', 'expected redis://'],
  ['redis:///0', 'expected redis://'],
  ['redis://queue.example:99999', 'expected redis://'],
  ['redis://worker:secret@queue.example', 'a password in the URL is seen'],
  ['redis://:secret@queue.example', 'a password in the URL is seen'],
  ['redis://queue.example/x', 'nothing behind the host'],
  ['redis://queue.example/1/2', 'nothing behind the host'],
  ['redis://queue.example/65536', 'nothing behind the host'],
  ['redis://queue.example?db=1', 'nothing behind the host'],
  ['redis://%ff@queue.example', 'not the name of a user'],
])('%s is refused', (text, message) => {
  expect(() => parseQueue(text)).toThrow(message)
})

const queue = parseQueue('redis://h')
const encrypted = parseQueue('rediss://h')

test('a password from a file, or else from the environment', () => {
  const queuePasswordFile = file('password', 's3cret\n')
  expect(connectionOf({ queue, queuePasswordFile }, 'other')?.password).toBe('s3cret')
  expect(connectionOf({ queue }, 'other')?.password).toBe('other')
  expect(connectionOf({ queue }, '')).toEqual(queue)
  expect(connectionOf({}, 'other')).toBeUndefined()
})

test('one that others may read is refused', () => {
  expect(() => connectionOf({ queue, queuePasswordFile: file('open', 's3cret', 0o644) })).toThrow('others can read')
})

test('certificates', () => {
  const make = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1']
  const names = ['-subj', '/CN=h', '-keyout', 'key', '-out', 'cert']
  execFileSync('openssl', [...make, ...names], { cwd: folder, stdio: 'pipe' })
  const [cert, key] = [join(folder, 'cert'), join(folder, 'key')]
  const ca = cert
  const all = { queue: encrypted, queueCa: ca, queueCert: cert, queueKey: key }
  const made = { ca: readFileSync(ca), cert: readFileSync(cert), key: readFileSync(key) }
  expect(connectionOf(all, undefined)?.tls).toEqual({ servername: 'h', ...made })
  const none = file('none', 'no PEM\n')
  expect(() => connectionOf({ ...all, queueCa: none })).toThrow(`--queue-ca ${none}: expected a certificate in PEM`)
  expect(() => connectionOf({ ...all, queueCert: none })).toThrow(`--queue-cert ${none}, --queue-key ${key}: expected`)
  expect(() => connectionOf({ ...all, queueKey: none })).toThrow('expected a certificate and its key in PEM')
  expect(() => connectionOf({ queue: encrypted, queueCert: cert })).toThrow('without the other')
  expect(() => connectionOf({ queue, queueCa: ca })).toThrow('of a queue with TLS')
  expect(() => connectionOf({ queueCa: ca })).toThrow('--queue-ca: without --queue')
})
