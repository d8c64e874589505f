// SPDX-License-Identifier: Apache-2.0
/** What brings npm into the images: only what has the hash of package.json, and a login goes to its registry alone. */
import { execFile, execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { privateFolder } from '../../../server/machine/scratch.ts'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
const SCRIPT = join(ROOT, 'docker/install-npm.mjs')

let folder: string
let tarball: Buffer
let servers: Server[]

async function listen(answer: (request: IncomingMessage) => { status: number; location?: string; body?: Buffer }) {
  const server = createServer((request, response) => {
    const { status, location, body } = answer(request)
    response.writeHead(status, location === undefined ? {} : { location }).end(body)
  }).listen(0, '127.0.0.1')
  servers.push(server)
  await once(server, 'listening')
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function install(settings: string, hash = createHash('sha512').update(tarball).digest('hex')) {
  writeFileSync(join(folder, '.npmrc'), settings)
  const file = join(folder, 'package.json')
  writeFileSync(file, JSON.stringify({ packageManager: `npm@1.2.3+sha512.${hash}` }))
  const args = [SCRIPT, file, join(folder, 'prefix'), join(folder, 'cache')]
  const { HTTPS_PROXY: _, https_proxy: __, ...env } = process.env
  return promisify(execFile)(process.execPath, args, { env: { ...env, HOME: folder } }).then(
    () => '',
    (error: { stderr: string }) => error.stderr,
  )
}

const npm = () => execFileSync(process.execPath, [join(folder, 'prefix/bin/npm')], { encoding: 'utf8' })

beforeEach(() => {
  servers = []
  folder = privateFolder(tmpdir(), 'install-npm-')
  mkdirSync(join(folder, 'package/bin'), { recursive: true })
  for (const name of ['npm', 'npx'])
    writeFileSync(join(folder, `package/bin/${name}-cli.js`), `console.log('${name}')\n`)
  tarball = execFileSync('tar', ['-cz', '-C', folder, 'package'])
})

afterEach(() => {
  for (const server of servers) server.close()
  rmSync(folder, { recursive: true })
})

test('npm is fetched once, and again when what was kept is damaged', async () => {
  const paths: unknown[] = []
  const host = await listen(({ url }) => {
    paths.push(url)
    return { status: 200, body: tarball }
  })
  const settings = `registry = http://${host}/npm\n`
  expect(await install(settings)).toBe('')
  expect(npm()).toBe('npm\n')
  expect(await install(settings)).toBe('')
  expect(paths).toEqual(['/npm/npm/-/npm-1.2.3.tgz'])
  writeFileSync(join(folder, 'cache/npm-1.2.3.tgz'), 'damaged')
  expect(await install(settings)).toBe('')
  expect(paths.length).toBe(2)
})

test('what has another hash is neither kept nor installed', async () => {
  const host = await listen(() => ({ status: 200, body: tarball }))
  const wrong = '0'.repeat(128)
  const said = await install(`registry=http://${host}/\n`, wrong)
  expect(said).toContain(`http://${host}/npm/-/npm-1.2.3.tgz: its SHA-512 is `)
  expect(said).toContain(`"packageManager" in package.json has ${wrong}`)
  expect(existsSync(join(folder, 'cache'))).toBe(false)
  expect(existsSync(join(folder, 'prefix'))).toBe(false)
})

test('a login goes to the registry that it is for, and not where that one sends us', async () => {
  const told: unknown[] = []
  const store = await listen(({ headers }) => {
    told.push(headers.authorization)
    return { status: 200, body: tarball }
  })
  const registry = await listen(({ headers }) => {
    told.push(headers.authorization)
    return { status: 302, location: `http://${store}/` }
  })
  const mine = `//${registry}/npm/:_authToken=secret\n`
  expect(await install(`registry=http://${registry}/npm/\n//${store}/:_authToken=other\n${mine}`)).toBe('')
  expect(told).toEqual(['Bearer secret', undefined])
})

test('what is wrong is said', async () => {
  const host = await listen(() => ({ status: 401 }))
  expect(await install(`registry=http://${host}/\n`)).toBe(
    `install-npm: http://${host}/npm/-/npm-1.2.3.tgz: HTTP status 401\n`,
  )
  expect(await install(`registry=http://${host}/\n`, 'short')).toContain(
    'package.json: "packageManager" is npm@1.2.3+sha512.short, where npm@VERSION+sha512.HEX is expected',
  )
})

test('no image takes Debian’s npm, nor an npm without a hash', () => {
  for (const name of ['docker/Dockerfile', '.devcontainer/Dockerfile']) {
    const text = readFileSync(join(ROOT, name), 'utf8')
    // apt-get install … up to the next command
    const installs = [...text.matchAll(/apt-get install ([^&]*)/g)].map(([, words = '']) => words.split(/[\s\\]+/))
    expect(installs.length, name).toBeGreaterThan(0)
    for (const words of installs) expect(words, name).not.toContain('npm')
  }
  expect(readFileSync(join(ROOT, 'docker/Dockerfile'), 'utf8')).toMatch(
    /node \S*install-npm\.mjs .*\\\n && npm install/,
  )
  const made =
    /"postCreateCommand": "node docker\/install-npm\.mjs package\.json ~\/\.local \S+ && node scripts\/bootstrap/
  expect(readFileSync(join(ROOT, '.devcontainer/devcontainer.json'), 'utf8')).toMatch(made)
  const { packageManager } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { packageManager: string }
  expect(packageManager).toMatch(/^npm@\d+\.\d+\.\d+\+sha512\.[0-9a-f]{128}$/)
})
