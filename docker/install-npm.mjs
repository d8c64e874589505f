// SPDX-License-Identifier: Apache-2.0

/**
 * Installs the npm that package.json names, with its hash, as "packageManager". Debian's package of npm wants some 360 others.
 * Registry and login are those of ~/.npmrc, certificates and proxy those of the environment, as npm itself has them.
 *
 *   node install-npm.mjs PACKAGE.JSON PREFIX CACHE      CACHE: a folder that keeps what was fetched
 *
 * To have a newer one: "npm view npm@VERSION dist.integrity" has the hash, in base64.
 */

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { homedir } from 'node:os'
import { join } from 'node:path'

/** @param {Buffer} data */
const sha512 = data => createHash('sha512').update(data).digest('hex')

/** @returns {[string, string][]} */
function npmrc() {
  const file = join(homedir(), '.npmrc')
  const text = existsSync(file) ? readFileSync(file, 'utf8') : ''
  return [...text.matchAll(/^\s*([^;#\s][^=]*?)\s*=\s*(.*?)\s*$/gm)].map(([, key = '', value = '']) => [key, value])
}

/**
 * @param {[string, string][]} settings
 * @param {URL} registry
 * @returns {Record<string, string>} headers
 */
function login(settings, registry) {
  const place = `//${registry.host}${registry.pathname}`
  for (const [key, value] of settings) {
    const [, folder, kind] = /^(\/\/.*\/):(_authToken|_auth)$/.exec(key) ?? []
    if (!folder || !place.startsWith(folder)) continue
    return { authorization: `${kind === '_auth' ? 'Basic' : 'Bearer'} ${value}` }
  }
  return {}
}

/** Node 20 asks no proxy by itself; its Debian package has what does. */
function useProxy() {
  if (!process.env.HTTPS_PROXY && !process.env.https_proxy) return
  const { EnvHttpProxyAgent, setGlobalDispatcher } = createRequire(import.meta.url)('undici')
  setGlobalDispatcher(new EnvHttpProxyAgent())
}

/**
 * @param {string} version
 * @param {string} hash
 */
async function fetched(version, hash) {
  const settings = npmrc()
  const [, named = 'https://registry.npmjs.org/'] = settings.find(([key]) => key === 'registry') ?? []
  const registry = new URL(named.endsWith('/') ? named : `${named}/`)
  const url = new URL(`npm/-/npm-${version}.tgz`, registry)
  useProxy()
  const answer = await fetch(url, { headers: login(settings, registry) }).catch(error => {
    throw new Error(`${url}: ${error.cause?.message ?? error.message}`)
  })
  if (!answer.ok) throw new Error(`${url}: HTTP status ${answer.status}`)
  const data = Buffer.from(await answer.arrayBuffer())
  if (sha512(data) === hash) return data
  throw new Error(`${url}: its SHA-512 is ${sha512(data)}, and "packageManager" in package.json has ${hash}`)
}

/**
 * @param {string} packageFile
 * @param {string} prefix
 * @param {string} cache
 */
async function install(packageFile, prefix, cache) {
  const { packageManager } = JSON.parse(readFileSync(packageFile, 'utf8'))
  const [, version, hash] = /^npm@([\w.-]+)\+sha512\.([0-9a-f]{128})$/.exec(packageManager) ?? []
  if (!version || !hash) {
    throw new Error(`${packageFile}: "packageManager" is ${packageManager}, where npm@VERSION+sha512.HEX is expected`)
  }
  const kept = join(cache, `npm-${version}.tgz`)
  if (!existsSync(kept) || sha512(readFileSync(kept)) !== hash) {
    const data = await fetched(version, hash)
    mkdirSync(cache, { recursive: true })
    writeFileSync(kept, data)
  }
  const folder = join(prefix, 'lib/node_modules/npm')
  mkdirSync(folder, { recursive: true })
  execFileSync('tar', [
    '--extract',
    '--gzip',
    '--no-same-owner',
    '--strip-components=1',
    '--directory',
    folder,
    '--file',
    kept,
  ])
  const programs = join(prefix, 'bin')
  mkdirSync(programs, { recursive: true })
  for (const name of ['npm', 'npx']) {
    rmSync(join(programs, name), { force: true })
    symlinkSync(`../lib/node_modules/npm/bin/${name}-cli.js`, join(programs, name))
  }
}

const [packageFile, prefix, cache] = process.argv.slice(2)
if (!packageFile || !prefix || !cache) {
  console.error('Usage: install-npm.mjs PACKAGE.JSON PREFIX CACHE')
  process.exitCode = 2
} else {
  await install(packageFile, prefix, cache).catch(error => {
    console.error(`install-npm: ${error.message}`)
    process.exitCode = 1
  })
}
